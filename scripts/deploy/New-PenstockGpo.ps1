<#
.SYNOPSIS
    Makes a Group Policy object with Penstock's settings, its templates in the central store, its publisher trusted.
.DESCRIPTION
    What is there already is brought to what is asked for, and not made twice. A setting that is not named is left as it is.
    The MSI is assigned by hand, as docs/deploy.md says: Windows has no command for that.

    The publisher's certificate goes to the machines' Trusted Publishers, so that a driver signed by it is staged without a
    question. That does not make a machine with Secure Boot load it.

    Exit code: 0 it is as asked; 1 it failed.
.PARAMETER Name
    The object's name.
.PARAMETER Setting
    Values, as `penstock policy show` lists them, numbers or texts; a tunnel is called Tunnels\NAME. None may be or hold a
    secret: everybody may read policies.
.PARAMETER Target
    The organisational unit to which it is linked, as OU=Servers,DC=example,DC=org. Without it, it is linked nowhere.
.PARAMETER Template
    The package's folder with penstock.admx and en-US\penstock.adml, to be copied to the central store.
.PARAMETER Certificate
    The publisher's certificate, a .cer file.
.PARAMETER Domain
    The domain.
.EXAMPLE
    .\New-PenstockGpo.ps1 -Name 'Penstock servers' -Setting @{ ReceiveQueues = 8; Mtu = 1400 } -Target 'OU=Servers,DC=example,DC=org'
.EXAMPLE
    .\New-PenstockGpo.ps1 -Name 'Penstock pilot' -Template .\policy -Certificate .\certificates\signer.cer -WhatIf
#>
#Requires -Version 5.1
#Requires -Modules GroupPolicy
[CmdletBinding(SupportsShouldProcess = $true)]
[OutputType([void])]
param(
    [Parameter(Mandatory = $true)]
    [ValidateNotNullOrEmpty()]
    [string] $Name,

    [hashtable] $Setting = @{},

    [string] $Target,

    [ValidateScript({ Test-Path -LiteralPath (Join-Path -Path $_ -ChildPath 'penstock.admx') })]
    [string] $Template,

    [ValidateScript({ Test-Path -LiteralPath $_ -PathType Leaf })]
    [string] $Certificate,

    [ValidateNotNullOrEmpty()]
    [string] $Domain = $env:USERDNSDOMAIN
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'

function Set-PolicyValue {
    <#
    .SYNOPSIS
        Sets a value of the object, unless it is that already.
    .DESCRIPTION
        Numbers become REG_DWORD, texts REG_SZ, bytes REG_BINARY.
    .PARAMETER Key
        The registry's key, below HKLM.
    .PARAMETER Value
        The value's name.
    .PARAMETER Data
        What it is set to.
    .EXAMPLE
        Set-PolicyValue -Key 'SOFTWARE\Policies\Penstock' -Value Mtu -Data 1400
    #>
    [CmdletBinding(SupportsShouldProcess = $true)]
    [OutputType([void])]
    param(
        [Parameter(Mandatory = $true)]
        [string] $Key,
        [Parameter(Mandatory = $true)]
        [string] $Value,
        [Parameter(Mandatory = $true)]
        [object] $Data
    )
    $kind = 'String'
    if ($Data -is [int] -or $Data -is [long]) { $kind = 'DWord' }
    if ($Data -is [byte[]]) { $kind = 'Binary' }
    $known = @{ Name = $Name; Domain = $Domain; Key = "HKLM\$Key"; ValueName = $Value }
    # An object or value that is not there is an error; if it is another, setting it says so.
    try { $present = Get-GPRegistryValue @known } catch { $present = $null }
    if ($null -ne $present -and "$($present.Type)" -eq $kind) {
        # Texts come back with the zero that ends them.
        if ("$($present.Value)".TrimEnd([char]0) -ceq "$Data") { return }
    }
    if ($PSCmdlet.ShouldProcess("$Name, HKLM\$Key\$Value", 'Set')) {
        $null = Set-GPRegistryValue @known -Type $kind -Value $Data
    }
}

foreach ($value in $Setting.Keys) {
    if ("$value $($Setting[$value])" -match 'PrivateKey|PresharedKey|Password|Secret') {
        throw "$value is not set: everybody may read policies. The machine makes the private key of a tunnel by policy."
    }
}
if ($Template) {
    $store = "\\$Domain\SYSVOL\$Domain\Policies\PolicyDefinitions"
    if (-not (Test-Path -LiteralPath $store)) {
        # One that has our templates alone would hide Windows' own from every editor.
        throw "there is no central store, $store`: copy %SystemRoot%\PolicyDefinitions there first"
    }
    foreach ($file in 'penstock.admx', 'en-US\penstock.adml') {
        $from = Join-Path -Path $Template -ChildPath $file
        $to = Join-Path -Path $store -ChildPath $file
        $same = (Test-Path -LiteralPath $to) -and (Get-FileHash -LiteralPath $to).Hash -eq (Get-FileHash -LiteralPath $from).Hash
        if (-not $same -and $PSCmdlet.ShouldProcess($to, 'Copy the template')) {
            $null = New-Item -ItemType Directory -Path (Split-Path -Path $to -Parent) -Force
            Copy-Item -LiteralPath $from -Destination $to -Force
        }
    }
}
# One that is not there is an error; if it is another, making it says so.
try { $there = $null -ne (Get-GPO -Name $Name -Domain $Domain) } catch { $there = $false }
if (-not $there -and $PSCmdlet.ShouldProcess($Name, 'Make the Group Policy object')) {
    $null = New-GPO -Name $Name -Domain $Domain -Comment 'Penstock'
    $there = $true
}
foreach ($value in $Setting.Keys) {
    $key = 'SOFTWARE\Policies\Penstock'
    $folder, $leaf = $value -split '\\', 2
    if ($leaf) { $key = "$key\$folder" } else { $leaf = $value }
    Set-PolicyValue -Key $key -Value $leaf -Data $Setting[$value]
}
if ($Certificate) {
    $path = (Resolve-Path -LiteralPath $Certificate).ProviderPath
    $read = New-Object -TypeName System.Security.Cryptography.X509Certificates.X509Certificate2 -ArgumentList $path
    # As the store keeps it: the certificate among its properties.
    $blob = $read.Export([System.Security.Cryptography.X509Certificates.X509ContentType]::SerializedCert)
    $key = "SOFTWARE\Policies\Microsoft\SystemCertificates\TrustedPublisher\Certificates\$($read.Thumbprint)"
    Set-PolicyValue -Key $key -Value 'Blob' -Data $blob
}
if ($Target -and $there) {
    $links = @((Get-GPInheritance -Target $Target -Domain $Domain).GpoLinks)
    $linked = @($links | Where-Object -Property DisplayName -EQ -Value $Name).Count -gt 0
    if (-not $linked -and $PSCmdlet.ShouldProcess($Target, "Link $Name")) {
        $null = New-GPLink -Name $Name -Target $Target -Domain $Domain
    }
}
exit 0
