<#
.SYNOPSIS
    Installs or upgrades Penstock from its MSI.
.DESCRIPTION
    Does nothing if that very product is there. Else it checks the MSI's signature, stops the tunnels that run, so that no file
    is in use, has Windows Installer do it, and starts them again.

    Exit code: 0 it is there; 3010 it is there after a restart; 1 it failed, and what was there before is there again.
.PARAMETER Path
    penstock.msi.
.PARAMETER Feature
    What of it. Driver may be left out where it comes another way.
.PARAMETER NoStart
    The manager's service is not started until Windows starts.
.PARAMETER Log
    The file to which Windows Installer writes what it does.
.EXAMPLE
    .\Install-Penstock.ps1 -Path \\server\share\penstock.msi
.EXAMPLE
    .\Install-Penstock.ps1 -Path .\penstock.msi -Feature Program -WhatIf
#>
#Requires -Version 5.1
#Requires -RunAsAdministrator
[CmdletBinding(SupportsShouldProcess = $true)]
[OutputType([void])]
param(
    [Parameter(Mandatory = $true)]
    [ValidateScript({ Test-Path -LiteralPath $_ -PathType Leaf })]
    [string] $Path,

    [ValidateSet('Program', 'Path', 'Driver')]
    [string[]] $Feature = @('Program', 'Path', 'Driver'),

    [switch] $NoStart,

    [string] $Log = (Join-Path -Path $env:TEMP -ChildPath 'penstock-install.log')
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Penstock.psm1')

function Get-ProductCode {
    <#
    .SYNOPSIS
        The product code of an MSI.
    .DESCRIPTION
        It is made of what is in the MSI: another build is another product.
    .PARAMETER Path
        The MSI.
    .EXAMPLE
        Get-ProductCode -Path C:\penstock.msi
    #>
    [CmdletBinding()]
    [OutputType([string])]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Path
    )
    # Its objects say nothing of their members, so these are called by name.
    $call = {
        param([object] $Of, [string] $Member, [string] $Kind, [object[]] $Arguments)
        $Of.GetType().InvokeMember($Member, $Kind, $null, $Of, $Arguments)
    }
    $query = "SELECT Value FROM Property WHERE Property = 'ProductCode'"
    $installer = New-Object -ComObject WindowsInstaller.Installer
    $database = & $call $installer 'OpenDatabase' 'InvokeMethod' @($Path, 0)
    $view = & $call $database 'OpenView' 'InvokeMethod' @($query)
    $null = & $call $view 'Execute' 'InvokeMethod' @()
    $record = & $call $view 'Fetch' 'InvokeMethod' @()
    $code = & $call $record 'StringData' 'GetProperty' @(1)
    $null = & $call $view 'Close' 'InvokeMethod' @()
    $code
}

$msi = (Resolve-Path -LiteralPath $Path).ProviderPath
$signature = Get-AuthenticodeSignature -LiteralPath $msi
if ($signature.Status -ne 'Valid') {
    throw "$msi is not installed: its signature is $($signature.Status). Trust its signer, or get it again."
}
$code = Get-ProductCode -Path $msi
if (@(Get-PenstockProduct | Where-Object -Property Code -EQ -Value $code).Count -gt 0) {
    Write-Verbose -Message "$msi is installed"
    exit 0
}
$exitCode = 0
if ($PSCmdlet.ShouldProcess($msi, 'Install, with tunnels down meanwhile')) {
    $running = @(Get-PenstockTunnelService | Where-Object -Property Status -EQ -Value 'Running')
    $start = [int](-not $NoStart)
    try {
        foreach ($service in $running) { Stop-Service -InputObject $service }
        $features = $Feature -join ','
        $exitCode = Invoke-PenstockInstaller -Argument "/i `"$msi`" ADDLOCAL=$features PENSTOCK_START=$start" -Log $Log
    } finally {
        foreach ($service in $running) { Start-Service -InputObject $service }
    }
}
exit $exitCode
