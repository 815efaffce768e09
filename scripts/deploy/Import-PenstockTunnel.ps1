<#
.SYNOPSIS
    Takes over a tunnel's file, of this product or of any whose files are those of wg-quick.
.DESCRIPTION
    The file is checked by `penstock strip`, and copied to where the manager looks, which encrypts it for this machine and
    installs the tunnel's service. The folder is the system's and administrators' alone. A tunnel that is there is left as it
    is, unless -Force is given. Keys are read from the file, and are on no command line.

    Exit code: 0 it is there; 1 it is not.
.PARAMETER Path
    The file, NAME.conf, after which the tunnel is called.
.PARAMETER Force
    A tunnel of that name is replaced.
.EXAMPLE
    .\Import-PenstockTunnel.ps1 -Path .\office.conf
.EXAMPLE
    .\Import-PenstockTunnel.ps1 -Path .\office.conf -Force -WhatIf
#>
#Requires -Version 5.1
#Requires -RunAsAdministrator
[CmdletBinding(SupportsShouldProcess = $true)]
[OutputType([void])]
param(
    [Parameter(Mandatory = $true)]
    [ValidateScript({ Test-Path -LiteralPath $_ -PathType Leaf })]
    [ValidatePattern('\.conf$')]
    [string] $Path,

    [switch] $Force
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Penstock.psm1')

$from = (Resolve-Path -LiteralPath $Path).ProviderPath
# What it prints has the keys.
$null = Invoke-PenstockProgram -Path (Get-PenstockProgram) -Argument 'strip', $from
$folder = Join-Path -Path $env:ProgramFiles -ChildPath 'Penstock\Data\Configurations'
if (-not (Test-Path -LiteralPath $folder)) {
    throw "there is no $folder`: the service PenstockManager makes it when it is started"
}
$name = [System.IO.Path]::GetFileName($from)
$to = Join-Path -Path $folder -ChildPath $name
$there = (Test-Path -LiteralPath $to) -or (Test-Path -LiteralPath "$to.dpapi")
if ($there -and -not $Force) {
    Write-Verbose -Message "there is a tunnel of that name: -Force replaces it"
    exit 0
}
if ($PSCmdlet.ShouldProcess($to, 'Import the tunnel')) {
    Copy-Item -LiteralPath $from -Destination $to -Force
}
exit 0
