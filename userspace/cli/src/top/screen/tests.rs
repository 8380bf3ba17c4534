//! Whole screens, as text.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{Event as TerminalEvent, KeyCode};

use super::*;
use crate::observe::Observed;
use crate::top::app::Event;
use crate::top::testing::{look, no_look, observed, stats};

/// What is on a screen of that size, line by line.
fn screen(app: &App, columns: u16, lines: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    terminal.draw(|frame| draw(app, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..columns).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..lines).map(|y| format!("{}\n", line(y).trim_end())).collect()
}

/// After these looks, a second from one to the next.
fn app(looks: Vec<Vec<Observed>>) -> App {
    let mut app = App::new(Duration::from_secs(1));
    for (second, drivers) in (0..).zip(looks) {
        app.update(look(Duration::from_secs(second), drivers));
    }
    app
}

fn busy() -> App {
    app([0, 900_000, 2_400_000, 2_700_000].map(|count| vec![observed("a", stats("veth0", count))]).into())
}

#[test]
fn everything_about_a_driver_fits_80_by_24() {
    assert_eq!(
        screen(&busy(), 80, 24),
        "\
netdext  sample on veth0  running  up 00:01:02  every 1s
 queues ────────────────────────────────────────────────────────────────────────
queue    rx pkt/s   rx bit/s   tx pkt/s   tx bit/s  fill level  tx in flight
0            300k       154M          0          0        2048             0
1               0          0       100k      51.2M           0             5
all          300k       154M       100k      51.2M        2048             5
 accounting ────────────────────────────────────────────────────────────────────
frames    offered 2700000 = delivered 2700000 + lost 0 + residue 0
pool      free 8000 + user 0 + rx lent 192 + tx lent 0 + quarantined 0 of 8192
injector  sent 10, replies 9, lost 1
 drops by cause ────────────────────────  verdicts ─────────────────────────────
name                        per s in all name                       per s in all
pool_empty                  3.00k  27.0k driver_echo4_request        300k  2.70M
                                         kernel_other                   0      7




 distributions ───────────────────────────────────────────  pkt/s, peak 2.00M ──
distribution                   p50     p99   p99.9     max                    █
injector rtt               81.2 us  307 us 1.20 ms 2.00 ms                   ▃█
                                                                             ██
                                                                             ██▆
q quit  p pause  up/down queues
"
    );
}

#[test]
fn before_the_second_look_there_are_counts_and_no_rates() {
    let screen = screen(&app(vec![vec![observed("a", stats("veth0", 900))]]), 80, 24);
    assert!(screen.contains("0               -          -          -          -        2048"), "{screen}");
    assert!(screen.contains("offered 900 = delivered 900"), "{screen}");
}

#[test]
fn of_many_queues_as_many_are_shown_as_fit_and_the_rest_by_scrolling() {
    let mut many = stats("veth0", 0);
    let queue = many.queues[0].clone();
    many.queues = (0..16).map(|id| QueueStats { id, ..queue.clone() }).collect();
    let mut app = app(vec![vec![observed("a", many)]]);
    let before = screen(&app, 80, 24);
    assert!(before.contains("queues 1 to 4 of 16"), "{before}");
    assert!(before.contains("\n3 ") && !before.contains("\n4 ") && before.contains("\nall "), "{before}");
    assert!(before.contains(" distributions ") && before.contains("injector rtt"), "{before}");
    for _ in 0..2 {
        app.update(Event::Terminal(TerminalEvent::Key(KeyCode::Down.into())));
    }
    let after = screen(&app, 80, 24);
    assert!(after.contains("queues 3 to 6 of 16"), "{after}");
    let tall = screen(&app, 80, 60);
    assert!(tall.contains("\n0 ") && tall.contains("\n15 "), "{tall}");
}

#[test]
fn causes_that_do_not_fit_are_summed_up_after_the_fastest() {
    let drops = |second: u64| {
        let mut stats = stats("veth0", 0);
        stats.drops = (0..20).map(|n| (format!("cause_{n}").into(), 100 + second * n)).collect();
        vec![observed("a", stats)]
    };
    let screen = screen(&app(vec![drops(0), drops(1)]), 80, 24);
    let at = |text: &str| screen.find(text).unwrap_or_else(|| panic!("no {text:?} in {screen}"));
    assert!(at("cause_19") < at("cause_18") && at("cause_18") < at("others"), "{screen}");
    // 100 + n each, the rates are n: all 20 lines make 190 per second.
    let shown: u64 = (0..20).rev().take_while(|n| screen.contains(&format!("cause_{n} "))).sum();
    let others = screen.lines().find(|line| line.contains("others")).unwrap();
    assert!(others.contains(&format!(" {} ", 190 - shown)), "{screen}");
}

#[test]
fn several_drivers_are_counted_and_a_pause_is_said() {
    let mut app = app(vec![vec![observed("a", stats("veth0", 0)), observed("b", stats("veth2", 0))]]);
    for key in [KeyCode::Right, KeyCode::Char('p')] {
        app.update(Event::Terminal(TerminalEvent::Key(key.into())));
    }
    let screen = screen(&app, 80, 24);
    assert!(screen.starts_with("netdext  sample on veth2  running  up 00:01:02  driver 2 of 2"), "{screen}");
    assert!(screen.lines().next().unwrap().ends_with("PAUSED"), "{screen}");
    assert!(screen.contains("left/right driver"), "{screen}");
}

#[test]
fn a_problem_is_said_under_the_last_counts_or_alone() {
    let mut app = busy();
    let problem = || no_look(Duration::from_secs(9), "nobody listens on x.sock");
    app.update(problem());
    let with_counts = screen(&app, 80, 24);
    let last = with_counts.lines().last().unwrap();
    assert_eq!(last, "no new counts, trying again: nobody listens on x.sock");
    assert!(with_counts.contains("offered 2700000"), "{with_counts}");
    let mut app = App::new(Duration::from_secs(1));
    assert!(screen(&app, 80, 24).contains("waiting for the first counts"));
    app.update(problem());
    assert!(screen(&app, 80, 24).contains("nobody listens on x.sock"));
    app.update(look(Duration::from_secs(10), vec![]));
    assert!(screen(&app, 80, 24).contains("no driver is running"));
}

#[test]
fn a_pool_with_a_frame_too_few_is_not_called_whole() {
    let mut broken = stats("veth0", 0);
    broken.census.free -= 1;
    let screen = screen(&app(vec![vec![observed("a", broken)]]), 100, 24);
    assert!(screen.contains("FRAMES ARE MISSING"), "{screen}");
}

#[test]
fn no_size_of_the_terminal_is_too_small_or_too_large_to_draw() {
    let app = busy();
    for columns in [1, 2, 10, 46, 47, 48, 79, 81, 300, 700] {
        for lines in [1, 2, 3, 8, 16, 23, 50, 200] {
            screen(&app, columns, lines);
        }
    }
}
