<#
.SYNOPSIS
    Sets this machine's policy values, or takes them away.
.DESCRIPTION
    Values are those of docs/tuning.md. Each is checked first, by `penstock policy check`; if one is none, nothing is set. What
    Group Policy says is over them. Those that are as asked are left alone, and if any was changed the driver reads them again.

    Exit code: 0 they are as asked; 1 they are not.
.PARAMETER Value
    What to set, as @{ ReceiveQueues = 8 }.
.PARAMETER Remove
    Names of values that become what they are by default.
.EXAMPLE
    .\Set-PenstockTuning.ps1 -Value @{ ReceiveQueues = 8; ScalingNode = 0 }
.EXAMPLE
    .\Set-PenstockTuning.ps1 -Remove ReceiveQueues -WhatIf
#>
#Requires -Version 5.1
#Requires -RunAsAdministrator
[CmdletBinding(SupportsShouldProcess = $true)]
[OutputType([void])]
param(
    [hashtable] $Value = @{},

    [ValidatePattern('^[A-Za-z]+$')]
    [string[]] $Remove = @()
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Penstock.psm1')

foreach ($name in $Value.Keys) {
    if ($name -notmatch '^[A-Za-z]+$') { throw "$name is no value of this machine's: a tunnel has a file, or is set by policy" }
}
$program = Get-PenstockProgram
$settings = @(foreach ($name in $Value.Keys) { "$name=$($Value[$name])" })
if ($settings.Count -gt 0) {
    Invoke-PenstockProgram -Path $program -Argument (@('policy', 'check') + $settings)
}
$key = 'HKLM:\SOFTWARE\Penstock'
$before = @{}
if (Test-Path -LiteralPath $key) {
    $item = Get-Item -LiteralPath $key
    foreach ($name in $item.GetValueNames()) { $before[$name] = "$($item.GetValueKind($name)) $($item.GetValue($name))" }
} elseif ($Value.Count -gt 0 -and $PSCmdlet.ShouldProcess($key, 'Make the key')) {
    $null = New-Item -Path $key -Force
}
$changed = $false
foreach ($name in $Value.Keys) {
    $data = $Value[$name]
    $kind = 'String'
    if ($data -is [int] -or $data -is [long]) { $kind = 'DWord' }
    if ($before.ContainsKey($name) -and $before[$name] -ceq "$kind $data") { continue }
    if ($PSCmdlet.ShouldProcess($name, "Set to $data")) {
        $null = New-ItemProperty -LiteralPath $key -Name $name -PropertyType $kind -Value $data -Force
        $changed = $true
    }
}
foreach ($name in $Remove) {
    if (-not $before.ContainsKey($name)) { continue }
    if ($PSCmdlet.ShouldProcess($name, 'Take away')) {
        Remove-ItemProperty -LiteralPath $key -Name $name
        $changed = $true
    }
}
if ($changed -and $PSCmdlet.ShouldProcess('the driver', 'Have it read its values')) {
    Invoke-PenstockProgram -Path $program -Argument 'policy', 'apply'
}
exit 0
