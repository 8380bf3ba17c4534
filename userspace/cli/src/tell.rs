//! `netdext tell`: a command of a running driver's own.

use netdext_daemon::control::list::ListEntry;
use netdext_daemon::control::protocol::{Request, Selector};
use netdext_daemon::control::{Client, ClientError, RuntimeDir};
use serde_json::Value;

use crate::output::print_json;

#[derive(clap::Args)]
#[command(after_help = "Example: netdext tell veth0 stations")]
pub struct Args {
    /// The driver: its interface, or its bundle ID, for example org.netdext.sample. What is both means the interface
    #[arg(value_name = "DRIVER")]
    driver: String,
    /// The command; which there are stands in the driver's documentation
    #[arg(value_name = "NAME")]
    name: String,
    /// What is to be done, as JSON
    #[arg(value_name = "JSON", value_parser = json)]
    value: Option<Value>,
    /// The driver's team ID; it can be left out where the bundle ID is unique
    #[arg(long, value_name = "TEAM")]
    team_id: Option<String>,
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}; for example '{{\"batch\": 4}}'"))
}

/// Runs the command: prints the driver's answer as JSON.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (mut client, entry) = find(&RuntimeDir::from_env(), &args.driver, args.team_id.as_deref())?;
    print_json(&ask(&mut client, &entry, &args.name, args.value.clone().unwrap_or_default())?);
    Ok(())
}

/// The driver on the interface of that name, and where there is none the one with that bundle ID.
fn find(
    directory: &RuntimeDir,
    name: &str,
    team_id: Option<&str>,
) -> Result<(Client, ListEntry), ClientError> {
    let (team_id, name) = (team_id.map(str::to_owned), Some(name.to_owned()));
    let by_iface = Selector { team_id: team_id.clone(), iface: name.clone(), ..Selector::default() };
    match Client::for_driver(directory, &by_iface) {
        // What is said of a driver that there is not names it as a bundle.
        Err(ClientError::NotFound { .. }) => {
            Client::for_driver(directory, &Selector { team_id, bundle_id: name, iface: None })
        }
        found => found,
    }
}

/// Gives a driver a command of its own, and returns its answer.
pub fn ask(client: &mut Client, entry: &ListEntry, name: &str, value: Value) -> Result<Value, ClientError> {
    client.request(&Request::DriverControl { driver: entry.selector(), name: name.to_owned(), value })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use netdext_daemon::control::SocketName;
    use netdext_daemon::control::list::ListState;
    use netdext_daemon::control::protocol::VERSION;

    use super::*;

    fn entry(team_id: &str, bundle_id: &str, iface: &str) -> ListEntry {
        ListEntry {
            team_id: team_id.to_owned(),
            bundle_id: bundle_id.to_owned(),
            version: "1".to_owned(),
            name: bundle_id.to_owned(),
            enabled: true,
            active: true,
            state: ListState::ActivatedEnabled,
            iface: iface.to_owned(),
            other_ifaces: Vec::new(),
            last_error: None,
        }
    }

    /// A runtime directory in which a process lists these drivers to each client.
    fn listing(directory: &Path, entries: &[ListEntry]) -> RuntimeDir {
        let directory = RuntimeDir::at(directory);
        let socket = UnixListener::bind(directory.socket(SocketName::Daemon)).unwrap();
        let list = serde_json::to_string(entries).unwrap();
        std::thread::spawn(move || {
            for mut client in socket.incoming().map_while(Result::ok) {
                let mut line = String::new();
                let _ = BufReader::new(&client).read_line(&mut line);
                let _ = writeln!(client, r#"{{"v":{VERSION},"id":1,"ok":true,"result":{list}}}"#);
            }
        });
        directory
    }

    #[test]
    fn an_interface_comes_before_a_bundle_and_one_that_is_ambiguous_is_no_bundle() {
        let directory = tempfile::tempdir().unwrap();
        let entries = [
            entry("A", "x", "veth0"),
            entry("A", "veth0", "veth2"),
            entry("A", "two", "veth4"),
            entry("B", "veth4", "veth4"),
        ];
        let directory = listing(directory.path(), &entries);
        let bundle = |name, team| find(&directory, name, team).map(|(_, entry)| entry.bundle_id);
        assert_eq!(bundle("veth0", None).unwrap(), "x");
        assert_eq!(bundle("two", None).unwrap(), "two");
        assert!(matches!(bundle("veth4", None), Err(ClientError::Ambiguous { .. })));
        assert_eq!(bundle("veth4", Some("B")).unwrap(), "veth4");
        let error = bundle("nobody", None).unwrap_err().to_string();
        assert!(error.starts_with("nobody is not there"), "{error}");
    }
}
