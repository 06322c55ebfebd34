//! Inputs, and how they are written down.

use std::fmt::Write;

/// The longest packet that a frame of the memory port holds, about.
pub const PACKET_MAX: usize = 1_600;
/// The most events of an input.
pub const EVENTS_MAX: usize = 8;

/// A packet, and the time before it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Event {
    /// Milliseconds since the packet before.
    pub wait: u32,
    /// The packet.
    pub packet: Vec<u8>,
}

/// A few packets, in order.
pub type Input = Vec<Event>;

/// Inputs as text: an event a line (`milliseconds hexadecimal-bytes`), inputs apart by an empty
/// line.
pub fn write_inputs(inputs: &[Input]) -> String {
    let mut text = String::new();
    for input in inputs {
        for event in input {
            write!(text, "{} ", event.wait).expect("a string takes all");
            for byte in &event.packet {
                write!(text, "{byte:02x}").expect("a string takes all");
            }
            text.push('\n');
        }
        text.push('\n');
    }
    text
}

/// The inputs in `text`, or the line that is none.
pub fn parse_inputs(text: &str) -> Result<Vec<Input>, String> {
    let mut inputs: Vec<Input> = vec![Vec::new()];
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() {
            inputs.push(Vec::new());
            continue;
        }
        let event = parse_event(line).ok_or(format!("line {number} is no event"))?;
        inputs.last_mut().expect("there is always one").push(event);
    }
    inputs.retain(|input| !input.is_empty());
    Ok(inputs)
}

fn parse_event(line: &str) -> Option<Event> {
    let (wait, digits) = line.split_once(' ')?;
    let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let packet = (0..digits.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>()?;
    (packet.len() <= PACKET_MAX).then_some(Event { wait: wait.parse().ok()?, packet })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_read_back() {
        let inputs = vec![
            vec![Event { wait: 0, packet: vec![] }, Event { wait: 70_000, packet: vec![0, 255] }],
            vec![Event { wait: 1, packet: vec![0xab; 300] }],
        ];
        assert_eq!(parse_inputs(&write_inputs(&inputs)), Ok(inputs));
    }

    #[test]
    fn what_is_no_input_is_refused() {
        for text in ["x 00", "5 0", "5 zz", "5", "-1 00"] {
            assert!(parse_inputs(text).is_err(), "{text}");
        }
        let long = format!("0 {}", "00".repeat(PACKET_MAX + 1));
        assert!(parse_inputs(&long).is_err());
    }
}
