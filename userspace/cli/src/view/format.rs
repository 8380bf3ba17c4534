//! Numbers for people, in few columns.

use std::time::Duration;

/// A number of three digits with a decimal prefix: `0`, `7.2`, `847`, `1.23k`, `12.3M`. Six columns at the most
/// below 10^15.
pub fn si(value: f64) -> String {
    const PREFIXES: [&str; 5] = ["", "k", "M", "G", "T"];
    if !value.is_finite() || value <= 0.0 {
        return "0".to_owned();
    }
    let mut scaled = value;
    let mut prefix = 0;
    // 999.5 would be rounded to four digits.
    while scaled >= 999.5 && prefix + 1 < PREFIXES.len() {
        scaled /= 1000.0;
        prefix += 1;
    }
    format!("{}{}", three_digits(scaled, prefix == 0), PREFIXES[prefix])
}

/// Below 1000, with the decimals that make three digits. Without a prefix one decimal is enough.
fn three_digits(value: f64, plain: bool) -> String {
    let decimals = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 || plain => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    if plain { text.strip_suffix(".0").map(str::to_owned).unwrap_or(text) } else { text }
}

/// A time in ns with its unit: `812 ns`, `81.2 us`, `1.23 ms`, `45.6 s`.
pub fn nanos(ns: u64) -> String {
    const UNITS: [&str; 4] = ["ns", "us", "ms", "s"];
    let mut scaled = ns as f64;
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    format!("{} {}", three_digits(scaled, unit == 0), UNITS[unit])
}

/// How long something has been up: `00:01:02`, `3d 04:05:06`.
pub fn uptime(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let clock = format!("{hours:02}:{minutes:02}:{:02}", seconds % 60);
    if days > 0 { format!("{days}d {clock}") } else { clock }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_three_digits_and_a_prefix() {
        for (value, text) in [
            (0.0, "0"),
            (-1.0, "0"),
            (f64::NAN, "0"),
            (0.25, "0.2"),
            (7.0, "7"),
            (7.25, "7.2"),
            (847.4, "847"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1234.0, "1.23k"),
            (99_960.0, "100k"),
            (999_600.0, "1.00M"),
            (7_200_000.0, "7.20M"),
            (1.5e10, "15.0G"),
            (2.0e15, "2000T"),
        ] {
            assert_eq!(si(value), text, "{value}");
        }
    }

    #[test]
    fn times_have_three_digits_and_a_unit() {
        for (ns, text) in [
            (0, "0 ns"),
            (812, "812 ns"),
            (1000, "1.00 us"),
            (81_240, "81.2 us"),
            (999_600, "1.00 ms"),
            (45_600_000_000, "45.6 s"),
            (4_560_000_000_000, "4560 s"),
        ] {
            assert_eq!(nanos(ns), text, "{ns}");
        }
    }

    #[test]
    fn an_uptime_is_a_clock_with_days_in_front() {
        assert_eq!(uptime(Duration::from_millis(62_900)), "00:01:02");
        assert_eq!(uptime(Duration::from_secs(3 * 86_400 + 4 * 3600 + 5 * 60 + 6)), "3d 04:05:06");
    }
}
