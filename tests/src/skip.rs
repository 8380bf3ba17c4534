//! Tests that can't run here.
//!
//! Such a test prints `SKIP: its name: why`, adds that line to the file named by `NETDEXT_SKIP_LOG`, and
//! returns. `cargo xtask test` counts the lines. With `NETDEXT_NO_SKIP=1` it fails instead.

use std::io::Write;

use netdext_host::privilege;

/// Skips the test it stands in unless it runs as root and the named programs are there.
///
/// It is the first line of such a test: `netdext_tests::require!("ping", "arping");`
#[macro_export]
macro_rules! require {
    ($($program:literal),*) => {{
        fn here() {}
        let test = $crate::skip::name_of(&here);
        if !$crate::skip::can_run(test, &[$($program),*]) {
            return;
        }
    }};
}

/// The name of the test that the function `here` was defined in.
pub fn name_of<F: Fn()>(_: &F) -> &'static str {
    let name = std::any::type_name::<F>();
    name.strip_suffix("::here").unwrap_or(name)
}

/// Whether the test can run; if not, the skip has been recorded.
///
/// # Panics
/// It can't, and `NETDEXT_NO_SKIP` is set; or the log can't be written.
pub fn can_run(test: &str, programs: &[&str]) -> bool {
    let Some(reason) = obstacle(programs) else { return true };
    let line = format!("{test}: {reason}");
    assert!(std::env::var_os("NETDEXT_NO_SKIP").is_none(), "may not be skipped: {line}");
    println!("SKIP: {line}");
    if let Some(log) = std::env::var_os("NETDEXT_SKIP_LOG") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&log);
        file.and_then(|mut file| writeln!(file, "{line}")).expect("NETDEXT_SKIP_LOG can be written");
    }
    false
}

fn obstacle(programs: &[&str]) -> Option<String> {
    let mut missing = privilege::missing_for_run();
    missing.extend(privilege::missing_for_namespace());
    if let Some(capability) = missing.first() {
        return Some(format!("no {}", capability.name()));
    }
    let missing = std::iter::once(&"ip").chain(programs).find(|program| !on_path(program));
    missing.map(|program| format!("no program {program}"))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_skipped_test_is_named() {
        fn here() {}
        assert_eq!(name_of(&here), "netdext_tests::skip::tests::the_skipped_test_is_named");
    }

    #[test]
    fn a_missing_program_is_an_obstacle() {
        assert!(obstacle(&["netdext-no-such-program"]).is_some());
    }
}
