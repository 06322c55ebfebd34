//! What the director says while it runs: one sentence a line on standard error. systemd adds the
//! time.

/// Says that something is so.
#[macro_export]
macro_rules! say {
    ($($arguments:tt)*) => { $crate::log::line("", format_args!($($arguments)*)) };
}

/// Says that something needs the operator's attention.
#[macro_export]
macro_rules! warn {
    ($($arguments:tt)*) => { $crate::log::line("warning: ", format_args!($($arguments)*)) };
}

/// Writes one line. A closed standard error is no reason to stop.
pub fn line(kind: &str, sentence: std::fmt::Arguments<'_>) {
    use std::io::Write;
    // One write, so that lines of several threads do not mix.
    let line = format!("shunt: {kind}{sentence}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}
