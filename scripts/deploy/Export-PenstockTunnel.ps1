<#
.SYNOPSIS
    Writes what a tunnel that is up is configured with to a file.
.DESCRIPTION
    Without its private and preshared keys, unless -IncludeSecret is given: then the file is the system's and administrators'
    alone before a key is written to it. Besides what the driver has, addresses and DNS servers of the interface are written.
    A file that is there is left as it is, unless -Force is given.

    Exit code: 0 it is written; 1 it is not.
.PARAMETER Name
    The tunnel.
.PARAMETER Path
    The file to write.
.PARAMETER IncludeSecret
    Keys, too.
.PARAMETER Force
    A file that is there is replaced.
.EXAMPLE
    .\Export-PenstockTunnel.ps1 -Name office -Path .\office.conf
.EXAMPLE
    .\Export-PenstockTunnel.ps1 -Name office -Path D:\safe\office.conf -IncludeSecret
#>
#Requires -Version 5.1
#Requires -RunAsAdministrator
[CmdletBinding(SupportsShouldProcess = $true)]
[OutputType([void])]
param(
    [Parameter(Mandatory = $true)]
    [ValidatePattern('^[A-Za-z0-9_=+.-]{1,32}$')]
    [string] $Name,

    [Parameter(Mandatory = $true)]
    [ValidateNotNullOrEmpty()]
    [string] $Path,

    [switch] $IncludeSecret,

    [switch] $Force
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Penstock.psm1')

$to = $ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($Path)
if ((Test-Path -LiteralPath $to) -and -not $Force) { throw "$to is there: -Force replaces it" }
$lines = @(Invoke-PenstockProgram -Path (Get-PenstockProgram) -Argument 'showconf', $Name)
if (-not $IncludeSecret) {
    $lines = @($lines | Where-Object -FilterScript { $_ -notmatch '^\s*(PrivateKey|PresharedKey)\s*=' })
}
$addresses = @(Get-NetIPAddress -InterfaceAlias $Name | Where-Object -Property PrefixOrigin -EQ -Value 'Manual')
$servers = @((Get-DnsClientServerAddress -InterfaceAlias $Name).ServerAddresses)
$besides = @(foreach ($address in $addresses) { "Address = $($address.IPAddress)/$($address.PrefixLength)" })
if ($servers.Count -gt 0) { $besides += "DNS = $($servers -join ', ')" }
$first = [array]::IndexOf($lines, '[Interface]')
if ($first -lt 0) { throw "$Name has no [Interface]: is it up?" }
$rest = @($lines | Select-Object -Skip ($first + 1))
$text = @($lines[0..$first]) + $besides + $rest
if ($PSCmdlet.ShouldProcess($to, "Export $Name")) {
    $null = New-Item -ItemType File -Path $to -Force
    if ($IncludeSecret) {
        # Protected: what the folder grants is not inherited. The system and administrators, everything.
        $access = Get-Acl -LiteralPath $to
        $part = [System.Security.AccessControl.AccessControlSections]::Access
        $access.SetSecurityDescriptorSddlForm('D:PAI(A;;FA;;;SY)(A;;FA;;;BA)', $part)
        Set-Acl -LiteralPath $to -AclObject $access
    }
    Set-Content -LiteralPath $to -Value $text -Encoding Ascii
}
exit 0
