<#
.SYNOPSIS
    Removes Penstock: services of tunnels, product, driver.
.DESCRIPTION
    Does nothing if it is not there. The files of tunnels, which have keys, stay unless -RemoveData is given.

    Exit code: 0 it is gone; 3010 it is gone after a restart; 1 it failed.
.PARAMETER RemoveData
    The files of tunnels are deleted, too.
.PARAMETER Log
    The file to which Windows Installer writes what it does.
.EXAMPLE
    .\Uninstall-Penstock.ps1 -Confirm:$false
.EXAMPLE
    .\Uninstall-Penstock.ps1 -RemoveData -WhatIf
#>
#Requires -Version 5.1
#Requires -RunAsAdministrator
[CmdletBinding(SupportsShouldProcess = $true, ConfirmImpact = 'High')]
[OutputType([void])]
param(
    [switch] $RemoveData,

    [string] $Log = (Join-Path -Path $env:TEMP -ChildPath 'penstock-uninstall.log')
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Penstock.psm1')

$exitCode = 0
# The manager would make again what is removed.
$manager = @(Get-Service -Name 'PenstockManager' -ErrorAction SilentlyContinue | Where-Object -Property Status -EQ -Value 'Running')
foreach ($service in $manager) {
    if ($PSCmdlet.ShouldProcess($service.Name, 'Stop the service')) { Stop-Service -InputObject $service }
}
foreach ($service in @(Get-PenstockTunnelService)) {
    if ($PSCmdlet.ShouldProcess($service.Name, 'Remove the service of the tunnel')) {
        $name = $service.Name.Substring('PenstockTunnel$'.Length)
        Invoke-PenstockProgram -Path (Get-PenstockProgram) -Argument 'uninstall-tunnel', $name
    }
}
foreach ($product in @(Get-PenstockProduct)) {
    if ($PSCmdlet.ShouldProcess("Penstock $($product.Version)", 'Remove the product and its driver')) {
        $exitCode = Invoke-PenstockInstaller -Argument "/x $($product.Code)" -Log $Log
    }
}
$data = Join-Path -Path $env:ProgramFiles -ChildPath 'Penstock\Data'
if ($RemoveData -and (Test-Path -LiteralPath $data)) {
    if ($PSCmdlet.ShouldProcess($data, 'Delete the files of tunnels')) {
        Remove-Item -LiteralPath $data -Recurse -Force
    }
}
exit $exitCode
