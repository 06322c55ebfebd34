//! What plugins say: from the worker's thread to the control thread, without waiting.

use dataplane::Millis;
use rtrb::{Consumer, Producer, RingBuffer};
use shunt_abi::LOG_LINE_MAX;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Lines that one instance may say in a second.
const LINES_A_SECOND: u32 = 10;
/// Lines that can wait for the control thread.
const WAITING_MAX: usize = 32;

/// A line on its way.
struct Record {
    now: Millis,
    length: u8,
    bytes: [u8; LOG_LINE_MAX],
}

/// The instance's end.
pub(crate) struct LogWriter {
    ring: Producer<Record>,
    lost: Arc<AtomicU64>,
    /// When the second began in which lines are counted, and how many there were in it.
    second: Millis,
    lines: u32,
}

impl LogWriter {
    /// Says a line, if that was not too much lately.
    pub fn line(&mut self, text: &[u8], now: Millis) {
        if now.wrapping_sub(self.second) >= 1000 {
            (self.second, self.lines) = (now, 0);
        }
        let length = length_of_line(text);
        let mut record = Record { now, length: length as u8, bytes: [0; LOG_LINE_MAX] };
        record.bytes[..length].copy_from_slice(&text[..length]);
        if self.lines == LINES_A_SECOND || self.ring.push(record).is_err() {
            self.lost.store(self.lost.load(Relaxed).wrapping_add(1), Relaxed);
        } else {
            self.lines += 1;
        }
    }
}

/// Bytes that a line keeps: no more than fit, and no part of a character.
fn length_of_line(text: &[u8]) -> usize {
    let continues = |&byte: &u8| byte & 0xc0 == 0x80;
    match text.get(LOG_LINE_MAX) {
        Some(next) if continues(next) => {
            // A character has at most three bytes that continue it.
            let tail = &text[LOG_LINE_MAX - 3..LOG_LINE_MAX];
            let back = tail.iter().rev().position(|byte| !continues(byte)).map_or(0, |at| at + 1);
            LOG_LINE_MAX - back
        }
        _ => text.len().min(LOG_LINE_MAX),
    }
}

/// What an instance says, for the control thread.
pub struct Log {
    /// `None` if the plugin never says anything.
    ring: Option<Consumer<Record>>,
    lost: Arc<AtomicU64>,
}

/// A line that an instance said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When, by the worker's clock; 0 on the control thread, before it had one.
    pub now: Millis,
    /// What, without control characters, and at most 200 bytes of what the plugin wrote.
    pub text: String,
}

/// Both ends for an instance.
pub(crate) fn log() -> (LogWriter, Log) {
    let (producer, consumer) = RingBuffer::new(WAITING_MAX);
    let lost = Arc::<AtomicU64>::default();
    let writer = LogWriter { ring: producer, lost: lost.clone(), second: 0, lines: 0 };
    (writer, Log { ring: Some(consumer), lost })
}

impl Log {
    /// Of an instance that cannot say anything.
    pub(crate) fn silent() -> Log {
        Log { ring: None, lost: Arc::default() }
    }

    /// The lines since the last call.
    pub fn read(&mut self) -> Vec<LogLine> {
        let Some(ring) = &mut self.ring else { return Vec::new() };
        std::iter::from_fn(|| ring.pop().ok()).map(LogLine::from).collect()
    }

    /// Lines that were said too fast (more than ten a second) or that nobody read in time, and are
    /// lost.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

impl From<Record> for LogLine {
    fn from(record: Record) -> LogLine {
        let text = String::from_utf8_lossy(&record.bytes[..usize::from(record.length)]);
        let printable = |letter: char| if letter.is_control() { ' ' } else { letter };
        LogLine { now: record.now, text: text.chars().map(printable).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(log: &mut Log) -> Vec<String> {
        log.read().into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn ten_lines_a_second_and_the_others_are_counted() {
        let (mut writer, mut log) = log();
        for now in [5_000, 5_999, 6_000, 6_999, 7_000] {
            (0..8).for_each(|line| writer.line(format!("{now} {line}").as_bytes(), now));
        }
        let lines = log.read();
        assert_eq!(lines.len(), 10 + 10 + 8);
        assert_eq!(log.lost(), 6 + 6);
        assert_eq!(lines[9], LogLine { now: 5_999, text: "5999 1".to_owned() });
        assert_eq!(lines[10], LogLine { now: 6_000, text: "6000 0".to_owned() });
    }

    #[test]
    fn lines_that_nobody_reads_are_counted() {
        let (mut writer, mut log) = log();
        (0..40).for_each(|second| writer.line(b"on and on", second * 1000));
        assert_eq!(log.lost(), 8);
        assert_eq!(log.read().len(), 32);
        writer.line(b"again", 41_000);
        assert_eq!(texts(&mut log), ["again"]);
        drop(log);
        writer.line(b"to nobody", 42_000);
    }

    #[test]
    fn a_line_is_cut_between_characters() {
        for (letter, kept) in [("x", 200), ("é", 200), ("€", 198), ("🦀", 200)] {
            for before in 0..4 {
                let (mut writer, mut log) = log();
                let line = "-".repeat(before) + &letter.repeat(200);
                writer.line(line.as_bytes(), 0);
                let text = texts(&mut log).remove(0);
                assert!(line.starts_with(&text), "{before} {letter}: {text}");
                assert!(text.len() > LOG_LINE_MAX - letter.len() && text.len() <= LOG_LINE_MAX);
                assert!(before > 0 || text.len() == kept);
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_become_one() {
        let (mut writer, mut log) = log();
        writer.line(b"a\nb\x1b[31m\xff", 0);
        writer.line(&[0x80; 300], 0);
        writer.line(b"", 0);
        let texts = texts(&mut log);
        assert_eq!(texts[0], "a b [31m\u{fffd}");
        assert_eq!(texts[1].chars().count(), 200);
        assert_eq!(texts[2], "");
    }
}
