<#
.SYNOPSIS
    Measures every way in and out of the Penstock driver on this machine, and says which is fastest.

.DESCRIPTION
    For each value of SendEngine (0 sockets, 1 injection of one list a run, 2 injection of a list a datagram) and of
    FastPath (0 sockets, 1 callouts), in several interleaved rounds: sets both values in the driver's Parameters key,
    disables and enables its adapters so that the driver is loaded anew and reads them, runs -Configure, and measures
    throughput through the tunnel and the CPU time it takes. Prints the medians and the values to set.

    The other end must run "iperf3 -s", or an ntttcp receiver ("ntttcp -r -m STREAMS,*,ADDRESS"), for which only
    sending is measured. What this changes is put back in the end, also after Ctrl-C: the two values, and the adapters,
    which are restarted and configured once more. The tunnel is down for a moment at each step: do not run it over a
    session that goes through the tunnel.

    Exit code: 0 measured, or told what would be done (-WhatIf); 1 a step failed; 2 something needed is not there.

.PARAMETER Peer
    Address of the other end inside the tunnel.

.PARAMETER Configure
    Configures the adapters after each restart, for example { wg.exe setconf tunnel C:\tunnel.conf }. The driver keeps
    no configuration when it is unloaded.

.PARAMETER Tool
    What measures. Auto takes iperf3 if it is on the path, else ntttcp.

.PARAMETER Rounds
    How often each combination is measured.

.PARAMETER Seconds
    How long one measurement takes, each way.

.PARAMETER Streams
    TCP connections at a time.

.PARAMETER ServiceName
    The driver's service.

.PARAMETER CpuCounter
    The performance counter of the CPUs, which has another name where Windows speaks another language.

.EXAMPLE
    .\Measure-Penstock.ps1 -Peer 10.9.0.2 -Configure { wg.exe setconf tunnel C:\tunnel.conf }

.EXAMPLE
    .\Measure-Penstock.ps1 -Peer 10.9.0.2 -Configure { wg.exe setconf tunnel C:\tunnel.conf } -WhatIf
#>
#Requires -Version 5.1
#Requires -RunAsAdministrator
[CmdletBinding(SupportsShouldProcess = $true, ConfirmImpact = 'Medium')]
[OutputType([string])]
param(
    [Parameter(Mandatory = $true)]
    [System.Net.IPAddress] $Peer,

    [Parameter(Mandatory = $true)]
    [scriptblock] $Configure,

    [ValidateSet('Auto', 'iperf3', 'ntttcp')]
    [string] $Tool = 'Auto',

    [ValidateRange(1, 50)]
    [int] $Rounds = 5,

    [ValidateRange(5, 600)]
    [int] $Seconds = 15,

    [ValidateRange(1, 64)]
    [int] $Streams = 4,

    [ValidatePattern('^[A-Za-z0-9_.-]+$')]
    [string] $ServiceName = 'penstock',

    [ValidateNotNullOrEmpty()]
    [string] $CpuCounter = '\Processor(_Total)\% Processor Time'
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'

# The defaults of abi/src/policy.rs, which stay unless something is faster by more than measurements scatter.
$defaultName = '0/1'
$margin = 1.03
$parametersKey = "HKLM:\SYSTEM\CurrentControlSet\Services\$ServiceName\Parameters"

function Get-Median {
    <#
    .SYNOPSIS
        The middle of some numbers; nothing of none.
    #>
    param([double[]] $Values)

    if ($null -eq $Values -or $Values.Count -eq 0) {
        return $null
    }
    $sorted = @($Values | Sort-Object)
    $middle = [math]::Floor($sorted.Count / 2)
    if ($sorted.Count % 2 -eq 1) {
        return $sorted[$middle]
    }
    return ($sorted[$middle - 1] + $sorted[$middle]) / 2
}

function Get-PolicyValue {
    <#
    .SYNOPSIS
        A value of the driver's Parameters key; nothing if it is not set.
    #>
    param([string] $Name)

    $key = Get-Item -LiteralPath $parametersKey -ErrorAction SilentlyContinue
    if ($null -eq $key) {
        return $null
    }
    return $key.GetValue($Name, $null)
}

function Set-PolicyValue {
    <#
    .SYNOPSIS
        Sets a value of the driver's Parameters key, or removes it if there is to be none.
    #>
    [CmdletBinding(SupportsShouldProcess = $true)]
    param([string] $Name, [object] $Value)

    if (-not $PSCmdlet.ShouldProcess("$parametersKey\$Name", "set to '$Value'")) {
        return
    }
    if ($null -eq $Value) {
        Remove-ItemProperty -LiteralPath $parametersKey -Name $Name -ErrorAction SilentlyContinue
        return
    }
    if (-not (Test-Path -LiteralPath $parametersKey)) {
        $null = New-Item -Path $parametersKey -Force
    }
    $null = New-ItemProperty -LiteralPath $parametersKey -Name $Name -Value $Value -PropertyType DWord -Force
}

function Restart-Driver {
    <#
    .SYNOPSIS
        Has the driver unloaded and loaded anew, and its adapters configured.
    #>
    [CmdletBinding(SupportsShouldProcess = $true)]
    param([string[]] $Devices)

    if (-not $PSCmdlet.ShouldProcess(($Devices -join ', '), 'disable, enable and configure')) {
        return
    }
    # All of them first: the driver stays loaded, with its old values, as long as one is there.
    foreach ($device in $Devices) {
        # One that is disabled already was left so by an interrupted restart.
        if ([string] (Get-PnpDevice -InstanceId $device).Problem -ne 'CM_PROB_DISABLED') {
            Disable-PnpDevice -InstanceId $device -Confirm:$false
        }
    }
    foreach ($device in $Devices) {
        Enable-PnpDevice -InstanceId $device -Confirm:$false
    }
    $null = & $Configure
}

function Wait-Peer {
    <#
    .SYNOPSIS
        Waits until the other end answers through the tunnel.
    #>
    param([int] $Attempts = 30)

    for ($attempt = 0; $attempt -lt $Attempts; $attempt++) {
        if (Test-Connection -ComputerName $Peer.ToString() -Count 1 -Quiet) {
            return
        }
        Start-Sleep -Seconds 1
    }
    throw "$Peer does not answer through the tunnel"
}

function Measure-Throughput {
    <#
    .SYNOPSIS
        Megabits per second, one way.
    #>
    param([string] $With, [ValidateSet('Send', 'Receive')] [string] $Way)

    if ($With -eq 'iperf3') {
        $arguments = @('-c', $Peer.ToString(), '-t', $Seconds, '-P', $Streams, '-J')
        if ($Way -eq 'Receive') {
            $arguments += '-R'
        }
        $report = (& iperf3.exe $arguments | Out-String) | ConvertFrom-Json
        if ($LASTEXITCODE -ne 0) {
            throw "iperf3 ended with $LASTEXITCODE"
        }
        return [double] $report.end.sum_received.bits_per_second / 1e6
    }
    $file = [System.IO.Path]::GetTempFileName()
    try {
        $null = & ntttcp.exe -s -m "$Streams,*,$Peer" -t $Seconds -xml $file
        if ($LASTEXITCODE -ne 0) {
            throw "ntttcp ended with $LASTEXITCODE"
        }
        $document = [xml] (Get-Content -LiteralPath $file -Raw)
        return [double] $document.SelectSingleNode("//throughput[@metric='mbps']").InnerText
    }
    finally {
        Remove-Item -LiteralPath $file -Force -ErrorAction SilentlyContinue
    }
}

function Measure-Way {
    <#
    .SYNOPSIS
        Throughput one way, and the share of the CPUs that it took.
    #>
    param([string] $With, [string] $Way)

    # The first and the last second are not measured: connections come and go in them.
    $cpu = Start-Job -ArgumentList ($Seconds - 2), $CpuCounter -ScriptBlock {
        param([int] $Samples, [string] $Counter)
        Start-Sleep -Seconds 1
        $read = Get-Counter -Counter $Counter -SampleInterval 1 -MaxSamples $Samples
        ($read.CounterSamples | Measure-Object -Property CookedValue -Average).Average
    }
    try {
        $mbps = Measure-Throughput -With $With -Way $Way
        $share = $cpu | Receive-Job -Wait
        return [pscustomobject] @{ Mbps = $mbps; Cpu = [double] $share }
    }
    finally {
        Remove-Job -Job $cpu -Force
    }
}

if (-not (Get-Service -Name $ServiceName -ErrorAction SilentlyContinue)) {
    Write-Error "there is no service '$ServiceName': the driver is not installed" -ErrorAction Continue
    exit 2
}
$candidates = @($Tool)
if ($Tool -eq 'Auto') {
    $candidates = @('iperf3', 'ntttcp')
}
$with = $candidates |
    Where-Object { Get-Command -Name "$_.exe" -CommandType Application -ErrorAction SilentlyContinue } |
    Select-Object -First 1
if ($null -eq $with) {
    Write-Error "on the path there is no $($candidates -join '.exe and no ').exe" -ErrorAction Continue
    exit 2
}
$devices = @(Get-PnpDevice -Class Net -PresentOnly -Status OK -ErrorAction SilentlyContinue |
    Where-Object { $_.Service -eq $ServiceName } |
    ForEach-Object { $_.InstanceId })
if ($devices.Count -eq 0) {
    Write-Error "no adapter of '$ServiceName' is running" -ErrorAction Continue
    exit 2
}
$ways = @('Send')
if ($with -eq 'iperf3') {
    $ways += 'Receive'
}
$combinations = foreach ($engine in 0, 1, 2) {
    foreach ($fastPath in 0, 1) {
        [pscustomobject] @{ Name = "$engine/$fastPath"; SendEngine = $engine; FastPath = $fastPath }
    }
}
$work = "measure $($combinations.Count) combinations $Rounds times with $with, restarting $($devices -join ', ') each time"
if (-not $PSCmdlet.ShouldProcess($parametersKey, $work)) {
    exit 0
}

$before = @{ SendEngine = Get-PolicyValue -Name 'SendEngine'; FastPath = Get-PolicyValue -Name 'FastPath' }
$results = New-Object -TypeName 'System.Collections.Generic.List[psobject]'
$exitCode = 0
try {
    for ($round = 1; $round -le $Rounds; $round++) {
        # Interleaved, so that what changes on the machine meanwhile meets all of them.
        foreach ($combination in $combinations) {
            Write-Progress -Activity 'Measuring Penstock' -Status "round $round of $Rounds, $($combination.Name)"
            Set-PolicyValue -Name 'SendEngine' -Value $combination.SendEngine -Confirm:$false
            Set-PolicyValue -Name 'FastPath' -Value $combination.FastPath -Confirm:$false
            Restart-Driver -Devices $devices -Confirm:$false
            Wait-Peer
            foreach ($way in $ways) {
                $one = Measure-Way -With $with -Way $way
                $results.Add([pscustomobject] @{ Name = $combination.Name; Way = $way; Mbps = $one.Mbps; Cpu = $one.Cpu })
            }
        }
    }
}
catch {
    Write-Error -ErrorRecord $_ -ErrorAction Continue
    $exitCode = 1
}
finally {
    # Each on its own: one that fails keeps nothing else from being put back. Told afterwards: after Ctrl-C a word may
    # end this block.
    $failures = @()
    foreach ($name in 'SendEngine', 'FastPath') {
        try {
            Set-PolicyValue -Name $name -Value $before[$name] -Confirm:$false
        }
        catch {
            $failures += "$name is not what it was ('$($before[$name])'): $_"
        }
    }
    try {
        Restart-Driver -Devices $devices -Confirm:$false
    }
    catch {
        $failures += "the adapters are not as they were: $_"
    }
    foreach ($failure in $failures) {
        $exitCode = 1
        Write-Error $failure -ErrorAction Continue
    }
}
if ($exitCode -ne 0) {
    exit $exitCode
}

$table = foreach ($combination in $combinations) {
    $row = [ordered] @{ SendEngine = $combination.SendEngine; FastPath = $combination.FastPath; Sum = 0.0 }
    foreach ($way in $ways) {
        $of = @($results | Where-Object { $_.Name -eq $combination.Name -and $_.Way -eq $way })
        $mbps = Get-Median -Values $of.Mbps
        $row["${way}Mbps"] = [math]::Round($mbps, 1)
        $row["${way}Cpu"] = [math]::Round((Get-Median -Values $of.Cpu), 1)
        $row['Sum'] += $mbps
    }
    [pscustomobject] $row
}
$best = $table | Sort-Object -Property 'Sum' -Descending | Select-Object -First 1
$default = $table | Where-Object { "$($_.SendEngine)/$($_.FastPath)" -eq $defaultName }
if ($best.Sum -lt $margin * $default.Sum) {
    $best = $default
}
$table | Select-Object -Property * -ExcludeProperty 'Sum' | Format-Table -AutoSize | Out-Host
Write-Output "Set SendEngine to $($best.SendEngine) and FastPath to $($best.FastPath) in $parametersKey."
exit 0
