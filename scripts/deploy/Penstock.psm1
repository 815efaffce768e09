<#
.SYNOPSIS
    What the scripts beside it share: what of Penstock is on this machine, and how programs are run.
.DESCRIPTION
    Nothing here changes anything by itself; Invoke-PenstockProgram runs what it is given, and its callers ask first.
.EXAMPLE
    Import-Module .\Penstock.psm1
#>
#Requires -Version 5.1
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'

function Get-PenstockProduct {
    <#
    .SYNOPSIS
        The products that Windows Installer lists as Penstock: Code and Version.
    .DESCRIPTION
        Reads where Windows lists installed programs; there is one, or none.
    .EXAMPLE
        Get-PenstockProduct
    #>
    [CmdletBinding()]
    [OutputType([pscustomobject])]
    param()
    $key = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall\{*}'
    foreach ($item in @(Get-ItemProperty -Path $key -ErrorAction SilentlyContinue)) {
        $names = @($item.PSObject.Properties.Name)
        if ($names -contains 'DisplayName' -and $item.DisplayName -eq 'Penstock' -and $names -contains 'WindowsInstaller') {
            [pscustomobject]@{ Code = $item.PSChildName; Version = $item.DisplayVersion }
        }
    }
}

function Get-PenstockTunnelService {
    <#
    .SYNOPSIS
        The services of tunnels.
    .DESCRIPTION
        One for each tunnel that is kept up, whether it runs or not.
    .EXAMPLE
        Get-PenstockTunnelService | Where-Object -Property Status -EQ -Value 'Running'
    #>
    [CmdletBinding()]
    [OutputType([System.ServiceProcess.ServiceController])]
    param()
    # A backtick, so that the dollar sign begins no variable; the name has no wildcard but the last.
    Get-Service -Name "PenstockTunnel`$*" -ErrorAction SilentlyContinue
}

function Get-PenstockProgram {
    <#
    .SYNOPSIS
        The path of penstock.exe.
    .DESCRIPTION
        That of the installed product, and none of the path's: whoever can write to a folder of the path is not to be run.
    .EXAMPLE
        & (Get-PenstockProgram) --version
    #>
    [CmdletBinding()]
    [OutputType([string])]
    param()
    $path = Join-Path -Path $env:ProgramFiles -ChildPath 'Penstock\penstock.exe'
    if (-not (Test-Path -LiteralPath $path -PathType Leaf)) { throw "Penstock is not installed: there is no $path" }
    $path
}

function Invoke-PenstockProgram {
    <#
    .SYNOPSIS
        Runs a program, and stops if it fails.
    .DESCRIPTION
        Arguments are handed over one by one, as they are; none may be a secret, for everybody may read command lines. What it
        prints is given back line by line.
    .PARAMETER Path
        The program.
    .PARAMETER Argument
        Its arguments.
    .PARAMETER Success
        The exit codes that are none of a failure.
    .EXAMPLE
        Invoke-PenstockProgram -Path (Get-PenstockProgram) -Argument policy, apply
    #>
    [CmdletBinding()]
    [OutputType([string])]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Path,
        [string[]] $Argument = @(),
        [int[]] $Success = @(0)
    )
    & $Path @Argument
    if ($Success -notcontains $LASTEXITCODE) {
        throw "$Path $Argument ended with $LASTEXITCODE"
    }
}

function Invoke-PenstockInstaller {
    <#
    .SYNOPSIS
        Runs Windows Installer without windows, waits for it, and gives back its exit code.
    .DESCRIPTION
        It never restarts the machine. 0 and 3010, after which a restart is needed, are given back; others stop the script.
    .PARAMETER Argument
        What it is to do, as one line, paths in quotes.
    .PARAMETER Log
        The file to which it writes what it does.
    .EXAMPLE
        Invoke-PenstockInstaller -Argument '/i "C:\penstock.msi"' -Log C:\penstock.log
    #>
    [CmdletBinding()]
    [OutputType([int])]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Argument,
        [Parameter(Mandatory = $true)]
        [string] $Log
    )
    $program = Join-Path -Path $env:SystemRoot -ChildPath 'System32\msiexec.exe'
    $line = "$Argument /qn /norestart /l*v `"$Log`""
    $process = Start-Process -FilePath $program -ArgumentList $line -Wait -PassThru
    if (@(0, 3010) -notcontains $process.ExitCode) {
        throw "Windows Installer ended with $($process.ExitCode); $Log says why"
    }
    $process.ExitCode
}

Export-ModuleMember -Function Get-PenstockProduct, Get-PenstockTunnelService, Get-PenstockProgram, Invoke-PenstockProgram,
    Invoke-PenstockInstaller
