//! Drivers as `netdext list` shows them.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use super::protocol::Selector;

/// The heading of the drivers, as systemextensionsctl has one for each kind of extension.
const CATEGORY: &str = "--- org.netdext.driver_extension";
/// The heading of the columns.
const COLUMNS: &str = "enabled    active    teamID    bundleID (version)    name    [state]";

/// A driver in the answer to [`Request::List`](super::protocol::Request::List).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEntry {
    /// Who stands for it.
    pub team_id: String,
    /// Its reverse-DNS name.
    pub bundle_id: String,
    /// Its version.
    pub version: String,
    /// Its name for people.
    pub name: String,
    /// Whether it is to have its frames.
    pub enabled: bool,
    /// Whether it runs.
    pub active: bool,
    /// Where it stands, in words.
    pub state: ListState,
    /// Its interface.
    pub iface: String,
    /// Further interfaces, of a driver that has several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_ifaces: Vec<String>,
    /// Why it failed the last time, if it did since it was installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Where a driver stands, in the words of systemextensionsctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListState {
    /// It runs and has its frames.
    #[serde(rename = "activated enabled")]
    ActivatedEnabled,
    /// It runs; its frames stay with the kernel.
    #[serde(rename = "activated disabled")]
    ActivatedDisabled,
    /// It runs without power: no timers, rings drained.
    #[serde(rename = "activated powered off")]
    ActivatedPoweredOff,
    /// It is installed, and nothing has started it yet.
    #[serde(rename = "terminated waiting to start")]
    TerminatedWaitingToStart,
    /// It failed, and will be started again.
    #[serde(rename = "terminated waiting to restart")]
    TerminatedWaitingToRestart,
    /// It is being stopped and removed.
    #[serde(rename = "terminated waiting to uninstall")]
    TerminatedWaitingToUninstall,
}

impl ListState {
    /// The words.
    pub fn words(self) -> &'static str {
        match self {
            Self::ActivatedEnabled => "activated enabled",
            Self::ActivatedDisabled => "activated disabled",
            Self::ActivatedPoweredOff => "activated powered off",
            Self::TerminatedWaitingToStart => "terminated waiting to start",
            Self::TerminatedWaitingToRestart => "terminated waiting to restart",
            Self::TerminatedWaitingToUninstall => "terminated waiting to uninstall",
        }
    }
}

impl ListEntry {
    /// Every interface, the first one first.
    pub fn ifaces(&self) -> impl Iterator<Item = &str> + '_ {
        std::iter::once(&self.iface).chain(&self.other_ifaces).map(String::as_str)
    }

    /// Whether a selector means this driver.
    pub fn is_meant_by(&self, selector: &Selector) -> bool {
        selector.matches(&self.team_id, &self.bundle_id, self.ifaces())
    }

    /// The selector of this driver alone.
    pub fn selector(&self) -> Selector {
        Selector {
            team_id: Some(self.team_id.clone()),
            bundle_id: Some(self.bundle_id.clone()),
            iface: Some(self.iface.clone()),
        }
    }
}

impl fmt::Display for ListEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ifaces: Vec<_> = self.ifaces().collect();
        write!(f, "{} {} on {}", self.team_id, self.bundle_id, ifaces.join(", "))
    }
}

/// The drivers as the table of systemextensionsctl. Under a driver that failed stands why.
pub fn table(entries: &[ListEntry]) -> String {
    let mut text = format!("{} extension(s)\n", entries.len());
    if entries.is_empty() {
        return text;
    }
    text.push_str(CATEGORY);
    text.push('\n');
    text.push_str(COLUMNS);
    text.push('\n');
    for entry in entries {
        let star = |on| if on { '*' } else { ' ' };
        let ListEntry { team_id, bundle_id, version, name, enabled, active, state, last_error, .. } = entry;
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{}    {}    {team_id}    {bundle_id} ({version})    {name}    [{}]",
            star(*enabled),
            star(*active),
            state.words()
        );
        if let Some(error) = last_error {
            let _ = writeln!(text, "        last error: {}", error.replace('\n', " "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> ListEntry {
        ListEntry {
            team_id: "A123456789".to_owned(),
            bundle_id: "org.netdext.sample".to_owned(),
            version: "1.0/1".to_owned(),
            name: "org.netdext.sample".to_owned(),
            enabled: true,
            active: true,
            state: ListState::ActivatedEnabled,
            iface: "veth0".to_owned(),
            other_ifaces: Vec::new(),
            last_error: None,
        }
    }

    #[test]
    fn the_table_has_the_form_of_systemextensionsctl() {
        assert_eq!(table(&[]), "0 extension(s)\n");
        let expected = "\
1 extension(s)
--- org.netdext.driver_extension
enabled    active    teamID    bundleID (version)    name    [state]
*    *    A123456789    org.netdext.sample (1.0/1)    org.netdext.sample    [activated enabled]
";
        assert_eq!(table(&[entry()]), expected);
    }

    #[test]
    fn a_driver_that_failed_says_why_in_one_line() {
        let failed = ListEntry {
            active: false,
            state: ListState::TerminatedWaitingToRestart,
            last_error: Some("veth0 is gone\nreally".to_owned()),
            ..entry()
        };
        let text = table(&[entry(), failed]);
        assert!(text.starts_with("2 extension(s)\n"));
        assert!(text.contains("\n*         A123456789"), "{text}");
        assert!(
            text.ends_with("[terminated waiting to restart]\n        last error: veth0 is gone really\n")
        );
    }

    #[test]
    fn the_words_of_the_table_are_those_of_the_json() {
        use ListState::*;
        let all = [
            ActivatedEnabled,
            ActivatedDisabled,
            ActivatedPoweredOff,
            TerminatedWaitingToStart,
            TerminatedWaitingToRestart,
            TerminatedWaitingToUninstall,
        ];
        for state in all {
            assert_eq!(serde_json::to_value(state).unwrap(), state.words());
        }
        let json = serde_json::to_string(&entry()).unwrap();
        assert!(!json.contains("last_error"), "{json}");
        assert_eq!(serde_json::from_str::<ListEntry>(&json).unwrap(), entry());
    }
}
