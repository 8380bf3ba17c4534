//! `netdext steer` and `netdext reload`: the steering rules of a running driver, and its XDP program, live.

use clap::Subcommand;
use netdext::control::list::ListEntry;
use netdext::control::protocol::{Request, Selector};
use netdext::control::{ChangedRule, Client, RuntimeDir};
use netdext::steer::Rule;
use serde::{Deserialize, Serialize};

use crate::lifecycle::ChoiceArgs;
use crate::output::{print_json, say};
use crate::units;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the rules in the order in which they are tried, each with the frames that it has decided about
    List(Common),
    /// Add a rule, which counts from the next frame on
    Add(AddArgs),
    /// Delete rules by the numbers that `netdext steer list` shows
    Del(DelArgs),
}

#[derive(clap::Args)]
struct Common {
    /// The driver on this interface
    #[arg(long, value_name = "IFACE")]
    iface: Option<String>,
    /// The driver of this bundle ID, for example org.netdext.sample
    #[arg(long, value_name = "BUNDLE")]
    driver: Option<String>,
    /// Print one JSON object a rule
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct AddArgs {
    /// driver, answer, kernel, drop or all, and which frames: drop proto=udp dport=53; see docs/steering.md
    #[arg(required = true, value_name = "RULE")]
    rule: Vec<String>,
    /// Add it even if it cuts the host off, on the interface of the default route
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct DelArgs {
    /// Numbers of rules
    #[arg(required = true, value_name = "ID")]
    ids: Vec<u32>,
    #[command(flatten)]
    common: Common,
}

/// A rule of the list, as the driver tells it.
#[derive(Serialize, Deserialize)]
struct ListedRule {
    id: u32,
    rule: String,
    hits: Option<u64>,
}

impl Common {
    fn client(&self) -> anyhow::Result<(Client, ListEntry)> {
        let selector = Selector { team_id: None, bundle_id: self.driver.clone(), iface: self.iface.clone() };
        Ok(Client::for_driver(&RuntimeDir::from_env(), &selector)?)
    }

    fn show(&self, done: &str, changed: &ChangedRule) {
        if self.json {
            print_json(changed);
        } else {
            say!("{done}: {} {}", changed.id, changed.rule);
        }
    }
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::List(common) => list(common),
        Command::Add(args) => add(args),
        Command::Del(args) => del(args),
    }
}

fn list(common: &Common) -> anyhow::Result<()> {
    let (mut client, entry) = common.client()?;
    let rules: Vec<ListedRule> = client.request(&Request::SteerList { driver: entry.selector() })?;
    if common.json {
        rules.iter().for_each(print_json);
    } else {
        say!("{}", table(&rules).trim_end());
    }
    Ok(())
}

fn table(rules: &[ListedRule]) -> String {
    let mut text = format!("{:>6}  {:>12}  rule\n", "id", "hits");
    for ListedRule { id, rule, hits } in rules {
        let hits = hits.map_or_else(|| "-".to_owned(), |hits| hits.to_string());
        text.push_str(&format!("{id:>6}  {hits:>12}  {rule}\n"));
    }
    text
}

fn add(args: &AddArgs) -> anyhow::Result<()> {
    // What is no rule is said here, as a wrong flag is.
    let rule: Rule =
        args.rule.join(" ").parse().unwrap_or_else(|error| units::usage_error(&format!("{error}")));
    let (mut client, entry) = args.common.client()?;
    let request = Request::SteerAdd { driver: entry.selector(), rule: rule.to_string(), yes: args.yes };
    args.common.show("added", &client.request(&request)?);
    Ok(())
}

fn del(args: &DelArgs) -> anyhow::Result<()> {
    let (mut client, entry) = args.common.client()?;
    for &id in &args.ids {
        let request = Request::SteerDel { driver: entry.selector(), id };
        args.common.show("deleted", &client.request(&request)?);
    }
    Ok(())
}

/// `netdext reload`.
pub fn reload(args: &ChoiceArgs) -> anyhow::Result<()> {
    let (mut client, entry) = Client::for_driver(&RuntimeDir::from_env(), &args.driver.selector())?;
    client.request::<serde::de::IgnoredAny>(&Request::Reload { driver: entry.selector() })?;
    if args.json {
        print_json(&entry);
    } else {
        say!("reloaded: {entry}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_listed_in_columns_and_one_without_a_counter_has_a_dash() {
        let rule = |id, rule: &str, hits| ListedRule { id, rule: rule.to_owned(), hits };
        let rules = [rule(7, "drop:proto=udp", Some(12)), rule(12_345, "driver", None)];
        let lines = [
            "    id          hits  rule",
            "     7            12  drop:proto=udp",
            " 12345             -  driver",
        ];
        assert_eq!(table(&rules).lines().collect::<Vec<_>>(), lines);
    }
}
