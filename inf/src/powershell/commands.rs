//! Commands that scripts call, with parameters that they have.
//!
//! A command or parameter that is new here is looked up first: a name that does not exist is found by nobody else.

/// What each has that asks, or reports errors.
pub(super) const COMMON: &[&str] = &["ErrorAction", "Verbose", "WhatIf", "Confirm"];

/// Source: the page of each command below <https://learn.microsoft.com/powershell/module/>, for Windows PowerShell 5.1.
const COMMANDS: &[(&str, &[&str])] = &[
    ("ConvertFrom-Json", &["InputObject"]),
    ("Copy-Item", &["LiteralPath", "Destination", "Force"]),
    ("Disable-PnpDevice", &["InstanceId"]),
    ("Enable-PnpDevice", &["InstanceId"]),
    ("Export-ModuleMember", &["Function"]),
    ("ForEach-Object", &["Process"]),
    ("Format-Table", &["AutoSize", "Wrap"]),
    ("Get-Acl", &["LiteralPath"]),
    ("Get-AuthenticodeSignature", &["LiteralPath"]),
    ("Get-ChildItem", &["LiteralPath", "File"]),
    ("Get-CimInstance", &["ClassName", "Filter"]),
    ("Get-Command", &["Name", "CommandType"]),
    ("Get-Content", &["LiteralPath", "Raw"]),
    ("Get-Counter", &["Counter", "SampleInterval", "MaxSamples"]),
    ("Get-Date", &[]),
    ("Get-DnsClientServerAddress", &["InterfaceAlias"]),
    ("Get-FileHash", &["LiteralPath"]),
    ("Get-GPInheritance", &["Target", "Domain"]),
    ("Get-GPO", &["Name", "Domain"]),
    ("Get-GPRegistryValue", &["Name", "Domain", "Key", "ValueName"]),
    ("Get-Item", &["LiteralPath"]),
    ("Get-ItemProperty", &["Path", "LiteralPath"]),
    ("Get-NetIPAddress", &["InterfaceAlias"]),
    ("Get-PnpDevice", &["InstanceId", "Class", "PresentOnly", "Status"]),
    ("Get-Service", &["Name"]),
    ("Get-WinEvent", &["FilterHashtable"]),
    ("Get-WindowsDriver", &["Online"]),
    ("Import-Module", &["Name"]),
    ("Invoke-Expression", &["Command"]),
    ("Join-Path", &["Path", "ChildPath"]),
    ("Measure-Object", &["Property", "Average"]),
    ("New-GPLink", &["Name", "Target", "Domain"]),
    ("New-GPO", &["Name", "Domain", "Comment"]),
    ("New-Item", &["ItemType", "Path", "Force"]),
    ("New-ItemProperty", &["LiteralPath", "Name", "PropertyType", "Value", "Force"]),
    ("New-Object", &["TypeName", "ArgumentList", "ComObject"]),
    ("Out-Host", &[]),
    ("Out-String", &[]),
    ("Receive-Job", &["Job", "Wait"]),
    ("Remove-Item", &["LiteralPath", "Recurse", "Force"]),
    ("Remove-ItemProperty", &["LiteralPath", "Name"]),
    ("Remove-Job", &["Job", "Force"]),
    ("Resolve-Path", &["LiteralPath"]),
    ("Select-Object", &["Property", "ExcludeProperty", "ExpandProperty", "First", "Skip"]),
    ("Set-Acl", &["LiteralPath", "AclObject"]),
    ("Set-Content", &["LiteralPath", "Value", "Encoding"]),
    ("Set-GPRegistryValue", &["Name", "Domain", "Key", "ValueName", "Type", "Value"]),
    ("Set-StrictMode", &["Version"]),
    ("Sort-Object", &["Property", "Descending"]),
    ("Split-Path", &["Path", "Parent"]),
    ("Start-Job", &["ScriptBlock", "ArgumentList"]),
    ("Start-Process", &["FilePath", "ArgumentList", "Wait", "PassThru"]),
    ("Start-Service", &["InputObject"]),
    ("Start-Sleep", &["Seconds"]),
    ("Stop-Service", &["InputObject"]),
    ("Test-Connection", &["ComputerName", "Count", "Quiet"]),
    ("Test-Path", &["Path", "LiteralPath", "PathType"]),
    ("Where-Object", &["Property", "EQ", "NE", "In", "Value", "FilterScript"]),
    ("Write-Error", &["Message", "ErrorRecord"]),
    ("Write-Host", &["Object"]),
    ("Write-Output", &["InputObject"]),
    ("Write-Progress", &["Activity", "Status", "PercentComplete", "Completed"]),
    ("Write-Verbose", &["Message"]),
];

/// The parameters that are known of a command of Windows.
pub(super) fn parameters(command: &str) -> Option<&'static [&'static str]> {
    let (_, parameters) = COMMANDS.iter().find(|(name, _)| *name == command)?;
    Some(parameters)
}
