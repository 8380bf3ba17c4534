//! The report as one page that needs nothing else.

use std::fmt::Write as _;

use super::plot::{bars, curves};
use super::schema::{Case, Report};
use super::table::{aimed, figures, given};

const STYLE: &str = "body{font:15px/1.45 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}\
    table{border-collapse:collapse;margin:.5em 0}td,th{text-align:left;padding:.15em .8em .15em 0;\
    border-bottom:1px solid #ddd;vertical-align:top}svg{max-width:100%}code{background:#f4f4f4}";

/// The page.
///
/// # Errors
/// A picture can't be drawn.
pub fn render(report: &Report) -> anyhow::Result<String> {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>netdext: benchmark</title>\
         <style>{STYLE}</style></head><body>\n<h1>netdext: benchmark</h1>\n"
    );
    page.push_str(&facts(report));
    page.push_str(&aims(report));
    for case in &report.cases {
        page.push_str(&section(case)?);
    }
    page.push_str("<h2>Changed for this, and undone</h2>\n<ul>\n");
    for change in &report.changes {
        let _ = writeln!(page, "<li>{}</li>", escape(change));
    }
    page.push_str("</ul>\n</body></html>\n");
    Ok(page)
}

fn facts(report: &Report) -> String {
    let machine = &report.machine;
    let optional = |text: &Option<String>| text.clone().unwrap_or_else(|| "not known".to_owned());
    let mut rows = vec![
        ("processor", machine.cpu.clone()),
        ("processors", machine.cores.to_string()),
        ("kernel", machine.kernel.clone()),
        ("memory", format!("{} MiB", machine.memory_bytes >> 20)),
        ("frequency governor", optional(&machine.governor)),
        ("hypervisor", optional(&machine.hypervisor)),
        ("load before", machine.load_average.to_string()),
        ("sources", optional(&machine.commit)),
        ("rounds", format!("{}{}", report.rounds, if report.quick { ", quick" } else { "" })),
        ("took", format!("{:.0} s", report.took_ns as f64 / 1e9)),
    ];
    rows.extend(machine.versions.iter().map(|(name, version)| (name.as_str(), version.clone())));
    let row =
        |(name, value): (&str, String)| format!("<tr><th>{name}</th><td>{}</td></tr>\n", escape(&value));
    format!("<table>\n{}</table>\n", rows.into_iter().map(row).collect::<String>())
}

fn aims(report: &Report) -> String {
    let rows = report.aims.iter().map(|aim| {
        let cells = [&aim.name, &aimed(aim), &given(aim)].map(|text| escape(text.trim()));
        format!("<tr><th>{}</th><td>{}</td><td>{}</td></tr>\n", cells[0], cells[1], cells[2])
    });
    let rows: String = rows.collect();
    format!("<h2 id=\"aims\">What was aimed for, and what this run gave</h2>\n<table>\n{rows}</table>\n")
}

fn section(case: &Case) -> anyhow::Result<String> {
    let mut text = format!("<h2 id=\"{0}\">{1} <code>{0}</code></h2>\n", case.id, escape(&case.title));
    for picture in [curves(case)?, bars(case)?].into_iter().flatten() {
        text.push_str(&picture);
    }
    text.push_str("<table>\n");
    for result in &case.results {
        let (key, figures) = (escape(&result.key()), escape(&figures(case, result)));
        let _ = writeln!(text, "<tr><th>{key}</th><td>{figures}</td></tr>");
    }
    text.push_str("</table>\n");
    Ok(text)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::{outcome, report};

    #[test]
    fn the_page_holds_everything_and_refers_to_nothing() {
        let page = render(&report(vec![outcome("kernel", &[1e6, 2e6]), outcome("peer", &[])])).unwrap();
        assert!(page.contains("<svg") && page.contains("echo_rate") && page.contains("a change"));
        assert!(page.contains("<td>at least 7.00 x</td><td>not measured: echo_rate of netdext --answer"));
        assert!(page.contains("not available: no &lt;such&gt; thing"), "escaped");
        for outside in ["<script", "src=", "@import", "<link"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
