//! What a scheduler may ask the director for. A plugin imports what it calls, and no more.

use crate::line::Line;
use core::fmt;
use shunt_abi::LOG_LINE_MAX;

#[cfg(target_arch = "wasm32")]
mod host {
    // SAFETY: the names and types are the contract's, and the host offers a function for each
    // (`shunt_abi::import`). It takes the two numbers by value and touches no memory.
    #[link(wasm_import_module = "shunt")]
    unsafe extern "C" {
        pub safe fn now_ms() -> i64;
        pub safe fn random() -> i64;
        pub fn log(address: *const u8, length: usize);
    }

    pub fn write(line: &str) {
        // SAFETY: the host reads so many bytes at the address and returns before the line ends
        // its life.
        unsafe { log(line.as_ptr(), line.len()) }
    }
}

#[cfg(not(target_arch = "wasm32"))]
use crate::testing as host;

/// Milliseconds of the director's clock, which never goes back. It is read once a turn of the
/// worker, so it stands still during a call. 0 in `new` and `configure`.
#[inline]
pub fn now_ms() -> u64 {
    host::now_ms() as u64
}

/// The next number of a generator whose seed is the instance's: the same seed and the same calls
/// draw the same numbers. For choices, not for secrets.
#[inline]
pub fn random() -> u64 {
    host::random() as u64
}

/// Writes a line of text to the director's log, formatted as `format!` does. It is cut at 200
/// bytes, and an instance may write ten lines a second: the rest is counted.
///
/// A line without arguments costs least; formatting adds some kilobytes to the plugin.
#[macro_export]
macro_rules! log {
    ($($argument:tt)+) => {
        $crate::write_log(::core::format_args!($($argument)+))
    };
}

/// What `log!` stands for.
#[doc(hidden)]
pub fn write_log(arguments: fmt::Arguments<'_>) {
    match arguments.as_str() {
        Some(text) => host::write(text),
        None => {
            let mut line = Line::<LOG_LINE_MAX>::new();
            // An argument that cannot be written ends the line.
            let _ = fmt::Write::write_fmt(&mut line, arguments);
            host::write(line.text());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{logged, set_now_ms, set_seed};

    #[test]
    fn time_and_random_numbers_are_what_the_test_says() {
        set_now_ms(u64::MAX - 1);
        assert_eq!(crate::now_ms(), u64::MAX - 1);
        let draw = |seed| {
            set_seed(seed);
            [crate::random(), crate::random()]
        };
        let numbers = draw(7);
        assert_eq!(numbers, draw(7));
        assert_ne!(numbers, draw(8));
        assert_ne!(numbers[0], numbers[1]);
    }

    #[test]
    fn a_line_is_cut_at_200_bytes() {
        let long = "ü".repeat(150);
        crate::log!("no arguments");
        crate::log!("slot {}", 7);
        crate::log!("x{long}{}", "never");
        let lines = logged();
        assert_eq!(lines[..2], ["no arguments", "slot 7"]);
        assert_eq!(lines[2], format!("x{}", "ü".repeat(99)));
        assert!(logged().is_empty());
    }
}
