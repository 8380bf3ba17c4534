//! How `netdext top` looks: drawn from [`App`] alone.

use std::time::Duration;

use netdext::driver::lifecycle::State;
use netdext::stats::{Percentiles, PortStats, QueueStats};
use netdext::view::format::{nanos, si, uptime};
use netdext::view::{QueueRates, text};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table, Wrap};

use super::app::{App, Shown};

/// Lines of the screen that are neither queues nor named rates.
const OTHER_LINES: u16 = 17;

/// Draws everything.
pub fn draw(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    let [header, body, footer] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)]).areas(area);
    frame.render_widget(heading(app), header);
    match app.shown() {
        Some(shown) => draw_driver(app, shown, body, frame),
        None => draw_nothing(app, body, frame),
    }
    frame.render_widget(last_line(app), footer);
}

fn draw_nothing(app: &App, area: Rect, frame: &mut Frame<'_>) {
    let message = match &app.problem {
        Some(problem) => problem.as_str(),
        None if app.looked => text::NO_DRIVER,
        None => "waiting for the first counts",
    };
    frame.render_widget(Paragraph::new(format!("\n{message}")).wrap(Wrap { trim: true }).centered(), area);
}

fn heading(app: &App) -> Line<'static> {
    let mut spans = vec![Span::raw("netdext").bold()];
    if let Some(Shown { stats, .. }) = app.shown() {
        spans.push(format!("  {} on {}  ", stats.driver, stats.iface).into());
        spans.push(Span::styled(text::state(stats.state), state_style(stats.state)));
        if let Some(ns) = stats.uptime_ns {
            spans.push(format!("  up {}", uptime(Duration::from_nanos(ns))).into());
        }
        if app.drivers.len() > 1 {
            spans.push(format!("  driver {} of {}", app.selected + 1, app.drivers.len()).into());
        }
    }
    // In place of the interval, so that both fit on 80 columns.
    if app.paused {
        spans.push("  ".into());
        spans.push(Span::raw("PAUSED").add_modifier(Modifier::REVERSED));
    } else {
        spans.push(format!("  every {}", humantime::format_duration(app.interval)).into());
    }
    Line::from(spans)
}

fn state_style(state: State) -> Style {
    match state {
        State::Running => Style::new().fg(Color::Green),
        State::Failed => Style::new().fg(Color::Red),
        _ => Style::new().fg(Color::Yellow),
    }
}

/// The problem, or else the keys.
fn last_line(app: &App) -> Line<'static> {
    match &app.problem {
        Some(problem) if !app.drivers.is_empty() => {
            let text = format!("no new counts, trying again: {problem}");
            Line::styled(text, Style::new().fg(Color::Red))
        }
        _ => {
            let mut keys = "q quit  p pause".to_owned();
            if app.drivers.len() > 1 {
                keys.push_str("  left/right driver");
            }
            if app.shown().is_some_and(|shown| shown.stats.queues.len() > 1) {
                keys.push_str("  up/down queues");
            }
            Line::raw(keys).dim()
        }
    }
}

fn draw_driver(app: &App, shown: &Shown, area: Rect, frame: &mut Frame<'_>) {
    let stats = &shown.stats;
    let several = u16::from(stats.queues.len() > 1);
    let wanted = (stats.queues.len() as u16).saturating_add(several);
    let queue_rows = wanted.min(area.height.saturating_sub(OTHER_LINES)).max(1 + several);
    let latencies = text::latencies(stats);
    let low = (latencies.len() as u16 + 2).max(5);
    let [queues, accounts, named, times] = Layout::vertical([
        Constraint::Length(queue_rows + 2),
        Constraint::Length(account_lines(stats).len() as u16 + 1),
        Constraint::Fill(1),
        Constraint::Length(low),
    ])
    .areas(area);
    let halves = |area| {
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(1), Constraint::Fill(1)]).areas(area)
    };
    let [drops, _, verdicts]: [Rect; 3] = halves(named);
    frame.render_widget(queue_table(app, shown, queue_rows - several), queues);
    frame.render_widget(Paragraph::new(account_lines(stats)).block(titled("accounting")), accounts);
    frame.render_widget(drop_table(shown, drops.height), drops);
    frame.render_widget(verdict_table(shown, verdicts.height), verdicts);
    let [percentiles, _, curve] =
        Layout::horizontal([Constraint::Length(47), Constraint::Length(1), Constraint::Fill(1)]).areas(times);
    frame.render_widget(latency_table(&latencies), percentiles);
    draw_curve(shown, curve, frame);
}

fn titled(title: impl Into<String>) -> Block<'static> {
    let title = Span::raw(format!(" {} ", title.into())).bold();
    Block::new().borders(Borders::TOP).border_style(Style::new().add_modifier(Modifier::DIM)).title(title)
}

fn account_lines(stats: &PortStats) -> Vec<Line<'static>> {
    let mut lines = vec![Line::raw(format!("frames    {}", text::accounting(&stats.accounting)))];
    let whole = stats.census.is_whole();
    let census = format!("pool      {}", stats.census);
    lines.push(if whole {
        Line::raw(census)
    } else {
        Line::raw(format!("{census}: FRAMES ARE MISSING")).red()
    });
    if let Some(injector) = &stats.injector {
        lines.push(Line::raw(format!("injector  {}", text::requests(injector))));
    }
    lines
}

fn queue_table(app: &App, shown: &Shown, rows: u16) -> Table<'static> {
    let queues = &shown.stats.queues;
    let rows = usize::from(rows.max(1));
    let first = app.first_queue.min(queues.len().saturating_sub(rows));
    let rate_of = |at: usize| shown.rates.as_ref().and_then(|rates| rates.queues.get(at).copied());
    let mut shown_rows: Vec<_> = queues
        .iter()
        .enumerate()
        .skip(first)
        .take(rows)
        .map(|(at, queue)| queue_row(queue.id.to_string(), rate_of(at), std::slice::from_ref(queue)))
        .collect();
    if queues.len() > 1 {
        shown_rows.push(queue_row("all".to_owned(), shown.rates.as_ref().map(|rates| rates.total), queues));
    }
    let title = if queues.len() > rows {
        format!("queues {} to {} of {}", first + 1, first + rows, queues.len())
    } else {
        "queues".to_owned()
    };
    let headings = ["queue", "rx pkt/s", "rx bit/s", "tx pkt/s", "tx bit/s", "fill level", "tx in flight"];
    table(shown_rows, &headings, &[6, 10, 10, 10, 10, 11, 13], titled(title))
}

fn queue_row(name: String, rates: Option<QueueRates>, queues: &[QueueStats]) -> Row<'static> {
    let rate =
        |of: fn(&QueueRates) -> f64| rates.as_ref().map_or_else(|| "-".to_owned(), |rates| si(of(rates)));
    let fill: u64 = queues.iter().map(|queue| u64::from(queue.fill_level)).sum();
    let in_flight: u64 = queues.iter().map(|queue| queue.tx_in_flight).sum();
    cells([
        name,
        rate(|r| r.rx_pps),
        rate(|r| r.rx_bps),
        rate(|r| r.tx_pps),
        rate(|r| r.tx_bps),
        fill.to_string(),
        in_flight.to_string(),
    ])
}

/// The first cell flush left, the others right.
fn cells(texts: impl IntoIterator<Item = String>) -> Row<'static> {
    Row::new(texts.into_iter().enumerate().map(|(column, text)| {
        let line = Line::raw(text);
        if column == 0 { line } else { line.right_aligned() }
    }))
}

fn table(
    rows: Vec<Row<'static>>,
    headings: &[&str],
    widths: &[u16],
    block: Block<'static>,
) -> Table<'static> {
    let header = cells(headings.iter().map(|&heading| heading.to_owned()))
        .style(Style::new().add_modifier(Modifier::DIM));
    Table::new(rows, widths.iter().map(|&width| Constraint::Length(width))).header(header).block(block)
}

fn drop_table(shown: &Shown, height: u16) -> Table<'static> {
    let rate = |name: &str| {
        let rates = shown.rates.as_ref().map(|rates| rates.drops.as_slice()).unwrap_or_default();
        rates.iter().find(|(named, _)| named == name).map_or(0.0, |(_, rate)| *rate)
    };
    let drops = shown.stats.drops.iter().filter(|(_, count)| **count > 0);
    let rows: Vec<_> = drops.map(|(name, count)| (name.to_string(), rate(name), *count)).collect();
    named_table("drops by cause", rows, height)
}

fn verdict_table(shown: &Shown, height: u16) -> Table<'static> {
    let rate = |name: &str| {
        let rates = shown.rates.as_ref().map(|rates| rates.verdicts.as_slice()).unwrap_or_default();
        rates.iter().find(|(named, _)| *named == name).map_or(0.0, |(_, rate)| *rate)
    };
    let verdicts = shown.stats.verdicts.iter().filter(|(_, count)| *count > 0);
    let rows: Vec<_> =
        verdicts.map(|(counter, count)| (counter.name().to_owned(), rate(counter.name()), count)).collect();
    named_table("verdicts", rows, height)
}

/// Names with rate and count, the fastest first; what does not fit is summed up in the last line.
fn named_table(title: &str, mut rows: Vec<(String, f64, u64)>, height: u16) -> Table<'static> {
    rows.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.2.cmp(&a.2)));
    let room = usize::from(height.saturating_sub(2));
    if rows.len() > room && room > 0 {
        let rest = rows.split_off(room - 1);
        let (rate, count) = rest.iter().fold((0.0, 0), |(rate, count), row| (rate + row.1, count + row.2));
        rows.push((format!("{} others", rest.len()), rate, count));
    }
    let empty = rows.is_empty();
    let mut rows: Vec<_> =
        rows.into_iter().map(|(name, rate, count)| cells([name, si(rate), si(count as f64)])).collect();
    if empty {
        rows.push(cells(["none".to_owned()]));
    }
    let header =
        cells(["name", "per s", "in all"].map(str::to_owned)).style(Style::new().add_modifier(Modifier::DIM));
    let widths = [Constraint::Fill(1), Constraint::Length(6), Constraint::Length(6)];
    Table::new(rows, widths).header(header).block(titled(title))
}

fn latency_table(latencies: &[(String, Percentiles)]) -> Table<'static> {
    let rows = latencies.iter().map(|(name, percentiles)| {
        let times = [percentiles.p50, percentiles.p99, percentiles.p999, percentiles.max];
        let known = percentiles.count > 0;
        let times = times.map(|ns| if known { nanos(ns) } else { "-".to_owned() });
        cells(std::iter::once(name.clone()).chain(times))
    });
    table(rows.collect(), &["time", "p50", "p99", "p99.9", "max"], &[16, 7, 7, 7, 7], titled("latency"))
}

fn draw_curve(shown: &Shown, area: Rect, frame: &mut Frame<'_>) {
    let columns = usize::from(area.width).min(shown.history.len());
    let newest: Vec<u64> = shown.history.iter().skip(shown.history.len() - columns).copied().collect();
    let peak = newest.iter().copied().max().unwrap_or(0);
    let title = format!("rx + tx pkt/s, peak {}", si(peak as f64));
    // At the right, where the newest is.
    let shift = area.width - columns as u16;
    let block = titled(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let curve = Rect { x: inner.x + shift, width: inner.width - shift, ..inner };
    frame.render_widget(
        Sparkline::default().data(newest).max(peak.max(1)).style(Style::new().fg(Color::Cyan)),
        curve,
    );
}

#[cfg(test)]
mod tests;
