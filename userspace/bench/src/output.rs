//! What is printed.

/// Prints a line. Unlike `println!` it does not panic when nobody reads any more: the report is written all the same.
macro_rules! say {
    ($($format:tt)*) => {{
        use std::io::Write as _;
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, $($format)*).and_then(|()| stdout.flush());
    }};
}
pub(crate) use say;

/// Prints a line to standard error. Unlike `eprintln!` it does not panic when that can't be written.
macro_rules! complain {
    ($($format:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr().lock(), $($format)*);
    }};
}
pub(crate) use complain;
