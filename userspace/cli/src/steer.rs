//! `netdext steer` and `netdext reload`: the steering rules of a running driver, and its XDP program, live.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;
use netdext_daemon::control::line::request_line;
use netdext_daemon::control::list::ListEntry;
use netdext_daemon::control::protocol::{Request, Selector};
use netdext_daemon::control::{AddedRules, ChangedRule, Client, LINE_BYTES, RuntimeDir};
use netdext_host::steer::{FileRule, read_rules};
use serde::{Deserialize, Serialize};

use crate::lifecycle::ChoiceArgs;
use crate::output::{print_json, say};
use crate::rule_args::RuleArg;
use crate::units;

/// How long a request's rules may take: they are some 30,000, and a daemon writes all of them into its state file.
const BULK_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the rules in the order in which they are tried, each with the frames that it has decided about
    List(Common),
    /// Add a rule, or the rules of a file; they count from the next frame on
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
    /// driver, answer, kernel, drop or all, and which frames: drop proto=udp dport=53; or @FILE with a rule a line. See
    /// docs/steering.md
    #[arg(required = true, value_name = "RULE|@FILE")]
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
    let rule: RuleArg =
        args.rule.join(" ").parse().unwrap_or_else(|error| units::usage_error(&format!("{error}")));
    let rule = match rule {
        RuleArg::Rule(rule) => rule,
        RuleArg::File(path) => return add_file(args, &path),
    };
    let (mut client, entry) = args.common.client()?;
    let request = Request::SteerAdd { driver: entry.selector(), rule: rule.to_string(), yes: args.yes };
    args.common.show("added", &client.request(&request)?);
    Ok(())
}

/// Adds the rules of a file, as many at a time as a request holds.
fn add_file(args: &AddArgs, path: &Path) -> anyhow::Result<()> {
    let rules = read_rules(path)?;
    let (mut client, entry) = args.common.client()?;
    client.set_timeout(BULK_TIMEOUT);
    let request = |rules| Request::SteerAddAll { driver: entry.selector(), rules, yes: args.yes };
    let room = LINE_BYTES.saturating_sub(request_line(u64::MAX, &request(Vec::new()))?.len());
    let mut done = 0;
    for (lines, texts) in requests(&rules, room) {
        let added: AddedRules = client.request(&request(texts)).with_context(|| {
            let (first, last) = lines;
            let file = path.display();
            format!("{file} lines {first} to {last}, after {done} of {} rules were added", rules.len())
        })?;
        done += added.added;
        if args.common.json {
            print_json(&added);
        }
    }
    if !args.common.json {
        say!("added: {done} rules of {}", path.display());
    }
    Ok(())
}

/// The first and the last line of each request, and the rules between, whose JSON takes up to `room` bytes.
fn requests(rules: &[FileRule], room: usize) -> Vec<((usize, usize), Vec<String>)> {
    let mut requests: Vec<((usize, usize), Vec<String>)> = Vec::new();
    let mut left = 0;
    for FileRule { line, rule } in rules {
        let text = rule.to_string();
        // Two quotation marks and a comma; nothing in a rule is escaped.
        let length = text.len() + 3;
        match requests.last_mut() {
            Some(((_, last), texts)) if length <= left => {
                *last = *line;
                texts.push(text);
                left -= length;
            }
            _ => {
                requests.push(((*line, *line), vec![text]));
                left = room.saturating_sub(length);
            }
        }
    }
    requests
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
    fn requests_are_as_long_as_a_line_and_have_all_rules_in_order() {
        let rules: Vec<FileRule> = (0..500_u16)
            .map(|port| FileRule {
                line: 2 * usize::from(port) + 1,
                rule: format!("drop:proto=udp,dport={port}").parse().unwrap(),
            })
            .collect();
        let request = |rules| Request::SteerAddAll { driver: Selector::default(), rules, yes: false };
        let empty = request_line(1, &request(Vec::new())).unwrap().len();
        let split = requests(&rules, 1000);
        for ((first, last), texts) in &split {
            assert_eq!(last - first, 2 * (texts.len() - 1));
            let length = request_line(1, &request(texts.clone())).unwrap().len() - empty;
            assert!((960..=1000).contains(&length) || *last == 999, "{length}");
        }
        let all: Vec<_> = split.into_iter().flat_map(|(_, texts)| texts).collect();
        assert_eq!(all, rules.iter().map(|at| at.rule.to_string()).collect::<Vec<_>>());
        assert!(requests(&[], 1000).is_empty());
    }

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
