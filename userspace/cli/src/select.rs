//! Which driver a command is about.

use netdext_daemon::control::protocol::Selector;

/// `TEAM BUNDLE`, or `BUNDLE` alone where that is unique, or `--iface IFACE`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DriverChoice {
    /// The driver's team ID; it can be left out where the bundle ID is unique
    #[arg(value_name = "TEAM")]
    first: Option<String>,
    /// The driver's bundle ID, for example org.netdext.sample
    #[arg(value_name = "BUNDLE")]
    second: Option<String>,
    /// The driver on this interface
    #[arg(long, value_name = "IFACE")]
    iface: Option<String>,
}

impl DriverChoice {
    /// What the control protocol calls it. With nothing given it matches every driver.
    pub fn selector(&self) -> Selector {
        let (team_id, bundle_id) = match (&self.first, &self.second) {
            (team, Some(bundle)) => (team.clone(), Some(bundle.clone())),
            // One name alone is the bundle's.
            (bundle, None) => (None, bundle.clone()),
        };
        Selector { team_id, bundle_id, iface: self.iface.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        driver: DriverChoice,
    }

    fn selector(arguments: &[&str]) -> Selector {
        let arguments = std::iter::once(&"netdext").chain(arguments);
        Cli::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}")).driver.selector()
    }

    #[test]
    fn a_driver_is_named_by_team_and_bundle_by_bundle_alone_or_by_interface() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(selector(&[]), Selector::default());
        assert_eq!(selector(&["org.x"]), Selector { bundle_id: some("org.x"), ..Selector::default() });
        assert_eq!(
            selector(&["TEAM", "org.x"]),
            Selector { team_id: some("TEAM"), bundle_id: some("org.x"), iface: None }
        );
        assert_eq!(selector(&["--iface", "veth0"]), Selector { iface: some("veth0"), ..Selector::default() });
        assert_eq!(
            selector(&["org.x", "--iface", "veth0"]),
            Selector { team_id: None, bundle_id: some("org.x"), iface: some("veth0") }
        );
    }

    #[test]
    fn three_names_are_too_many() {
        assert!(Cli::try_parse_from(["netdext", "a", "b", "c"]).is_err());
    }
}
