//! `netdext tell`: a command of a running driver's own.

use netdext_daemon::control::protocol::{Request, Selector};
use netdext_daemon::control::{Client, RuntimeDir};
use serde_json::Value;

use crate::output::print_json;
use crate::select::DriverChoice;

#[derive(clap::Args)]
pub struct Args {
    /// The driver: its bundle ID, for example org.netdext.sample, or its interface
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
    let by_bundle = Selector {
        team_id: args.team_id.clone(),
        bundle_id: Some(args.driver.clone()),
        ..Selector::default()
    };
    let by_iface =
        Selector { team_id: args.team_id.clone(), iface: Some(args.driver.clone()), ..Selector::default() };
    let directory = RuntimeDir::from_env();
    let selector = match Client::for_driver(&directory, &by_iface) {
        Ok(_) => by_iface,
        // What is said of a driver that there is not names it as a bundle.
        Err(_) => by_bundle,
    };
    let (_, answer) = ask(&selector, &args.name, args.value.clone().unwrap_or_default())?;
    print_json(&answer);
    Ok(())
}

/// Gives a driver a command of its own. Returns which driver it was, and its answer.
pub fn tell(choice: &DriverChoice, name: &str, value: Value) -> anyhow::Result<(String, Value)> {
    ask(&choice.selector(), name, value)
}

fn ask(selector: &Selector, name: &str, value: Value) -> anyhow::Result<(String, Value)> {
    let (mut client, entry) = Client::for_driver(&RuntimeDir::from_env(), selector)?;
    let request = Request::DriverControl { driver: entry.selector(), name: name.to_owned(), value };
    let answer = client.request(&request)?;
    Ok((entry.to_string(), answer))
}
