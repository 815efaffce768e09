<#
.SYNOPSIS
    Says of each part of Penstock on this machine whether it is as it should be.
.DESCRIPTION
    Reads only. Each check gives an object with Check, Status (Good, Bad, or Unknown where it could not be read) and Detail, which
    says what to do.

    Exit code: 0 nothing is bad; 1 something is.
.PARAMETER Hours
    How far back the event log is looked at.
.EXAMPLE
    .\Test-PenstockHealth.ps1
.EXAMPLE
    .\Test-PenstockHealth.ps1 | Where-Object -Property Status -NE -Value Good | Format-Table -Wrap
#>
#Requires -Version 5.1
#Requires -RunAsAdministrator
[CmdletBinding()]
[OutputType([pscustomobject])]
param(
    [ValidateRange(1, 720)]
    [int] $Hours = 24
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Penstock.psm1')

$checks = [ordered]@{
    'Product' = {
        $products = @(Get-PenstockProduct)
        if ($products.Count -eq 1) { 'Good', "Penstock $($products[0].Version)" }
        else { 'Bad', "$($products.Count) products are listed: install the MSI, or remove what is too many" }
    }
    'Manager' = {
        $service = Get-CimInstance -ClassName Win32_Service -Filter "Name = 'PenstockManager'"
        if ($null -eq $service) { 'Bad', 'there is no service PenstockManager: repair the product' }
        elseif ($service.PathName -notmatch '^"[^"]+\\penstock\.exe" service manager$') {
            'Bad', "its command line is not quoted, or another's: $($service.PathName)"
        }
        elseif ($service.State -ne 'Running') { 'Bad', "it is $($service.State): Start-Service PenstockManager" }
        else { 'Good', 'it runs' }
    }
    'Tunnels' = {
        $stopped = @(Get-PenstockTunnelService | Where-Object -Property Status -NE -Value 'Running')
        if ($stopped.Count -gt 0) { 'Bad', "these do not run: $($stopped.Name -join ', ')" }
        else { 'Good', "$(@(Get-PenstockTunnelService).Count) run" }
    }
    'Signatures' = {
        $folder = Split-Path -Path (Get-PenstockProgram) -Parent
        $files = @(Get-ChildItem -LiteralPath $folder -File | Where-Object -Property Extension -In -Value '.exe', '.sys')
        $bad = @($files | Where-Object -FilterScript { (Get-AuthenticodeSignature -LiteralPath $_.FullName).Status -ne 'Valid' })
        if ($bad.Count -gt 0) { 'Bad', "these are changed, or their signer is not trusted: $($bad.Name -join ', ')" }
        else { 'Good', "$($files.Count) hold" }
    }
    'Driver' = {
        $staged = @(Get-WindowsDriver -Online | Where-Object -FilterScript { $_.OriginalFileName -like '*\penstock.inf' })
        if ($staged.Count -eq 0) { 'Bad', 'it is not in the driver store: penstock driver install' }
        else { 'Good', "$($staged[0].Driver), $($staged[0].Version)" }
    }
    'Events' = {
        $filter = @{ LogName = 'Application'; ProviderName = 'Penstock'; Level = 1, 2; StartTime = (Get-Date).AddHours(-$Hours) }
        $events = @(Get-WinEvent -FilterHashtable $filter -ErrorAction SilentlyContinue)
        if ($events.Count -gt 0) { 'Bad', "$($events.Count) errors, the last: $($events[0].Message)" }
        else { 'Good', "no error in $Hours hours" }
    }
    'Policy' = {
        $lines = @(Invoke-PenstockProgram -Path (Get-PenstockProgram) -Argument 'policy', 'show')
        $refused = @($lines | Where-Object -FilterScript { $_ -match '^\s*refused:' })
        if ($refused.Count -gt 0) { 'Bad', ($refused -join '; ').Trim() }
        else { 'Good', 'no value is refused' }
    }
    'Doctor' = {
        $program = Get-PenstockProgram
        try {
            $null = Invoke-PenstockProgram -Path $program -Argument 'doctor'
            'Good', 'penstock doctor finds nothing'
        } catch {
            'Bad', 'run penstock doctor: it says what is wrong, and what to do'
        }
    }
}
$bad = 0
foreach ($check in $checks.Keys) {
    try {
        $status, $detail = & $checks[$check]
    } catch {
        $status, $detail = 'Unknown', $_.Exception.Message
    }
    if ($status -eq 'Bad') { $bad++ }
    [pscustomobject]@{ Check = $check; Status = $status; Detail = $detail }
}
exit [int]($bad -gt 0)
