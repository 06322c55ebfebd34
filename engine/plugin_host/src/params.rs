//! Parameters of a scheduler: what an operator says to a plugin.

use crate::Error;
use crate::running::Running;
use shunt_abi::export;
use std::collections::BTreeMap;
use wasmtime::TypedFunc;

/// Parameters by key. Keys are 1 to 64 of A-Z, a-z, 0-9, _ and -, values at most 256 bytes without
/// control characters.
pub type Params = BTreeMap<String, String>;

const KEY_MAX: usize = 64;
const VALUE_MAX: usize = 256;

/// What they are to a plugin: a line each, sorted by key. Or what is wrong with them.
fn lines(params: &Params) -> Result<String, String> {
    let mut lines = String::new();
    for (key, value) in params {
        let fits = |letter: u8| letter.is_ascii_alphanumeric() || b"_-".contains(&letter);
        if !(1..=KEY_MAX).contains(&key.len()) || !key.bytes().all(fits) {
            return Err(format!(
                "the parameter {key:?} has a name that none can have: make it 1 to {KEY_MAX} \
                 letters, digits, _ and -"
            ));
        }
        if value.len() > VALUE_MAX || value.chars().any(char::is_control) {
            return Err(format!(
                "the value of the parameter {key} is no line of at most {VALUE_MAX} bytes: \
                 shorten it, and leave control characters out"
            ));
        }
        lines.extend([key, "=", value, "\n"]);
    }
    Ok(lines)
}

impl Running {
    /// Tells the plugin its parameters, if there are any.
    pub fn configure(&mut self, params: &Params, plugin: &str) -> Result<(), Error> {
        self.try_configure(params)
            .map_err(|reason| Error::Params { plugin: plugin.to_owned(), reason })
    }

    fn try_configure(&mut self, params: &Params) -> Result<(), String> {
        let Some(first) = params.keys().next() else { return Ok(()) };
        let lines = lines(params)?;
        let (Some(room), Some(configure)) = (self.layout.params(), &self.configure) else {
            return Err(format!("it takes no parameters and {first:?} is given: leave it out"));
        };
        if lines.len() > room.capacity {
            return Err(format!(
                "the parameters have {} bytes and it has room for {}: give it fewer, or shorter \
                 ones",
                lines.len(),
                room.capacity
            ));
        }
        let configure: TypedFunc<i32, i32> = configure.clone();
        self.memory.data_mut(&mut self.store)[room.first(lines.len())]
            .copy_from_slice(lines.as_bytes());
        let fuel = self.init_fuel;
        let answer = crate::running::call(
            &mut self.store,
            &configure,
            lines.len() as i32,
            export::CONFIGURE,
            fuel,
        );
        let answer = answer.map_err(|failed| failed.to_string())?;
        if answer == 0 {
            return Ok(());
        }
        let length = usize::try_from(answer).unwrap_or(0);
        let sentence = &self.memory.data(&self.store)[room.first(length)];
        Err(one_line(sentence).unwrap_or_else(|| {
            let keys: Vec<_> = params.keys().map(String::as_str).collect();
            format!("it refuses its parameters ({}) and does not say why", keys.join(", "))
        }))
    }
}

/// What a plugin says, on one line; `None` if that is nothing.
fn one_line(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let printable = |letter: char| if letter.is_control() { ' ' } else { letter };
    let line: String = text.chars().map(printable).collect();
    let line = line.trim();
    (!line.is_empty()).then(|| line.to_owned())
}
