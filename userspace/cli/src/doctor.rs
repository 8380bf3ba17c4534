//! `netdext doctor`: what stands in the way of a driver on an interface.

use std::time::Duration;

use anyhow::{Context, bail};
use netdext_host::diagnose::{Facts, Finding, Severity, diagnose};
use netdext_host::link::netns;
use netdext_host::link::tuning::{Change, Tuned};
use netdext_host::privilege::{Cap, PrivilegeError, missing_for_run};
use netdext_host::stats::SCHEMA_VERSION;
use serde::Serialize;

use crate::output::{print_json, say};
use netdext_host::signals::Signals;

/// Looks at the machine, an interface and the other end of its pair. Nothing is changed without --fix.
///
/// Exit status: 0 if nothing is worse than a note, or everything that was is mended by --fix; 1 if a warning or a
/// problem was found, or something failed; 2 usage; 77 not permitted.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The interface
    #[arg(long)]
    iface: String,
    /// Make the changes that can be taken back (offloads, left-over NAPI settings), stay in the foreground until
    /// SIGINT, SIGTERM or SIGHUP, and then take them back in reverse order. To keep a change, run its command instead
    #[arg(long)]
    fix: bool,
    /// With --fix: take the changes back after this time
    #[arg(long, value_name = "TIME", value_parser = netdext::units::duration, requires = "fix")]
    duration: Option<Duration>,
    /// Enter this network namespace first
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// Print each finding, change and the summary as one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if args.fix && missing_for_run().contains(&Cap::NetAdmin) {
        return Err(PrivilegeError::Missing(vec![Cap::NetAdmin]).into());
    }
    // Before the runtime: a namespace belongs to a thread, and threads inherit it.
    if let Some(name) = &args.netns {
        netns::enter(name)?;
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        // From here on a signal ends it in order, also one that comes while changes are being made.
        let mut signals = Signals::watch()?;
        let findings = diagnose(&Facts::gather(&args.iface).await?);
        for finding in &findings {
            print_finding(finding, args.json);
        }
        print_summary(&args.iface, &findings, args.json);
        let unmended = if args.fix { mend(args, &findings, &mut signals).await? } else { bad(&findings) };
        if unmended == 0 {
            return Ok(());
        }
        let hint = if !args.fix && findings.iter().any(|finding| finding.is_bad() && finding.remedy.is_some())
        {
            ", or --fix for those that it can mend"
        } else {
            ""
        };
        bail!("{unmended} of the findings on {} need to be mended: see the commands above{hint}", args.iface)
    })
}

fn bad(findings: &[Finding]) -> usize {
    findings.iter().filter(|finding| finding.is_bad()).count()
}

/// Makes the changes, waits, and takes them back. Returns how many warnings and problems it did not mend.
async fn mend(args: &Args, findings: &[Finding], signals: &mut Signals) -> anyhow::Result<usize> {
    // Dropped on an error in reverse order, too: the latest change first.
    let mut made = Made::default();
    for finding in findings {
        let Some(change) = &finding.remedy else { continue };
        let tuned = change.clone().apply().with_context(|| format!("mend {}", finding.check))?;
        made.0.push((finding.check, tuned));
        print_change("fixed", finding.check, change, args.json);
    }
    let unmended = findings.iter().filter(|finding| finding.is_bad() && finding.remedy.is_none()).count();
    if made.0.is_empty() {
        if !args.json {
            say!("nothing that --fix can mend");
        }
        return Ok(unmended);
    }
    if !args.json {
        say!("{} change(s) made; they are taken back on SIGINT, SIGTERM or SIGHUP", made.0.len());
    }
    let end = async {
        match args.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = signals.any() => {}
        () = end => {}
    }
    made.restore(args.json)?;
    Ok(unmended)
}

/// The changes in the order in which they were made.
#[derive(Default)]
struct Made(Vec<(&'static str, Tuned)>);

impl Made {
    /// Takes all back, the latest first; returns the first error after all were tried.
    fn restore(mut self, json: bool) -> anyhow::Result<()> {
        let mut result = Ok(());
        while let Some((check, tuned)) = self.0.pop() {
            match tuned.restore() {
                Ok(Some(change)) => print_change("restored", check, &change, json),
                // The interface is gone, and its settings with it.
                Ok(None) => {}
                Err(error) => {
                    result = result.and(Err(anyhow::Error::new(error).context(format!("restore {check}"))));
                }
            }
        }
        result
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

#[derive(Serialize)]
struct FindingLine<'a> {
    event: &'static str,
    schema: u32,
    #[serde(flatten)]
    finding: &'a Finding,
    fixable: bool,
}

#[derive(Serialize)]
struct ChangeLine<'a> {
    event: &'static str,
    schema: u32,
    check: &'a str,
    command: String,
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    event: &'static str,
    schema: u32,
    iface: &'a str,
    ok: usize,
    notes: usize,
    warnings: usize,
    problems: usize,
}

fn print_finding(finding: &Finding, json: bool) {
    if json {
        let fixable = finding.remedy.is_some();
        print_json(&FindingLine { event: "finding", schema: SCHEMA_VERSION, finding, fixable });
        return;
    }
    let Finding { check, severity, subject, finding: what, why, fix, remedy: _ } = finding;
    say!("{severity:<8} {check} ({subject}): {what}");
    if *severity == Severity::Ok {
        return;
    }
    say!("         why: {why}");
    if let Some(command) = fix {
        say!("         fix: {command}");
    }
}

fn print_change(event: &'static str, check: &str, change: &Change, json: bool) {
    let command = change.command();
    if json {
        print_json(&ChangeLine { event, schema: SCHEMA_VERSION, check, command });
    } else {
        say!("{event:<8} {check}: {command}");
    }
}

fn print_summary(iface: &str, findings: &[Finding], json: bool) {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (ok, notes) = (count(Severity::Ok), count(Severity::Note));
    let (warnings, problems) = (count(Severity::Warning), count(Severity::Problem));
    if json {
        let (event, schema) = ("summary", SCHEMA_VERSION);
        print_json(&SummaryLine { event, schema, iface, ok, notes, warnings, problems });
    } else {
        say!("summary: {iface}: {problems} problem(s), {warnings} warning(s), {notes} note(s), {ok} ok");
    }
}
