//! plugins/ABI.md against the records that plugin and host are compiled with: who writes a plugin
//! in another language has nothing but the document.

use shunt_abi::{
    ABI_VERSION, CAPACITY_MAX, CHANGES_ALL, Changes, Flow, LOG_LINE_MAX, PARAM_KEY_MAX,
    PARAM_VALUE_MAX, PARAMS_MAX, Server, Table, VERSION_SECTION, WANTS_LOAD, export, import,
    slot_of_key,
};
use std::mem::{align_of, offset_of, size_of};

const DOCUMENT: &str = include_str!("../../ABI.md");

/// What a heading is followed by, up to the next one.
fn section(heading: &str) -> &'static str {
    let (_, rest) = DOCUMENT
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("ABI.md has no heading {heading}"));
    rest.split("\n#").next().unwrap()
}

/// The rows of a section's table, cell by cell, without the head.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let lines = section(heading).lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    lines
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// Offset, size and name of every field of a record.
type Fields = Vec<(usize, usize, &'static str)>;

/// The fields as the compiler has them. Leaving one out does not compile.
macro_rules! fields {
    ($record:ident { $($field:ident),* }) => {{
        fn size<F>(_: impl Fn(&$record) -> &F) -> usize {
            size_of::<F>()
        }
        let _ = |$record { $($field: _),* }: $record| ();
        vec![$((offset_of!($record, $field), size(|record| &record.$field), stringify!($field))),*]
    }};
}

/// The fields as the document has them.
fn documented(heading: &str) -> Fields {
    rows(heading)
        .iter()
        .map(|row| {
            let size = match row[1] {
                "u32" => 4,
                "u16" => 2,
                "u8 × 16" => 16,
                other => panic!("{heading} has a field of type {other}"),
            };
            (row[0].parse().unwrap(), size, row[2].trim_matches('`'))
        })
        .collect()
}

fn assert_size<R>(heading: &str) {
    let sentence = format!("\n{} bytes, aligned to {}", size_of::<R>(), align_of::<R>());
    assert!(section(heading).contains(&sentence), "{heading} does not say:{sentence}");
}

#[test]
fn the_fields_are_where_the_document_says() {
    let table = fields!(Table {
        abi_version,
        wants,
        capacity,
        servers,
        keys,
        flow,
        count,
        generation,
        worker,
        workers,
        params,
        params_capacity,
        state,
        state_capacity,
        changes,
        reserved
    });
    assert_eq!(documented("### Table"), table);
    assert_size::<Table>("### Table");
    let server = fields!(Server { weight, active, inactive, reserved, address });
    assert_eq!(documented("### Server"), server);
    assert_size::<Server>("### Server");
    let flow = fields!(Flow { source, destination, source_port, destination_port, protocol });
    assert_eq!(documented("### Flow"), flow);
    assert_size::<Flow>("### Flow");
    let changes = fields!(Changes { count, slots });
    assert_eq!(changes, [(0, 4, "count"), (4, 2 * CAPACITY_MAX, "slots")]);
    let list = section("### Change list");
    assert!(list.contains("A u32 `count`, then a u16 for each of `capacity` slots; aligned to 4."));
    assert!(list.contains(&format!("A `count` of {CHANGES_ALL} (`CHANGES_ALL`)")));
}

#[test]
fn the_numbers_are_those_of_the_code() {
    let says = |heading: &str, sentence: String| {
        assert!(section(heading).contains(&sentence), "{heading} does not say: {sentence}");
    };
    says("### Exports", format!("answers {ABI_VERSION} |"));
    says("### Table", format!("can use, 1 to {CAPACITY_MAX}."));
    says("### Table", format!("`params_capacity` | P | with `params`, 1 to {PARAMS_MAX} |"));
    says("### Imports", format!("cuts a line at {LOG_LINE_MAX} bytes"));
    says("### Parameters", format!("A key is 1 to {PARAM_KEY_MAX} characters"));
    says("### Parameters", format!("A value has at most {PARAM_VALUE_MAX} bytes"));
    says("## The module", format!("A custom section `{VERSION_SECTION}`"));
    assert_eq!(1 << 0, WANTS_LOAD, "the document calls it bit 0");
}

#[test]
fn the_names_are_those_of_the_code() {
    let names = |heading| -> Vec<&str> {
        rows(heading).iter().map(|row| row[0].trim_matches('`')).collect()
    };
    assert_eq!(
        names("### Exports"),
        [
            export::MEMORY,
            export::ABI_VERSION,
            export::INIT,
            export::SCHEDULE,
            export::UPDATE,
            export::CONFIGURE,
            export::SAVE,
            export::RESTORE,
        ]
    );
    assert_eq!(names("### Imports"), [import::LOG, import::NOW_MS, import::RANDOM]);
    assert!(section("### Imports").contains(&format!("in the module `{}`", import::MODULE)));
}

/// The bytes of the worked example, by address.
struct Dump(Vec<(usize, u8)>);

impl Dump {
    fn read() -> Dump {
        let section = section("## A worked example");
        let (_, rest) = section.split_once("```text\n").unwrap();
        let (dump, _) = rest.split_once("```").unwrap();
        let mut bytes = Vec::new();
        for line in dump.lines() {
            let mut words = line.split_whitespace();
            let address = usize::from_str_radix(words.next().unwrap(), 16).unwrap();
            let line = words.map_while(|word| u8::from_str_radix(word, 16).ok()).take(16);
            bytes.extend((address..).zip(line));
        }
        Dump(bytes)
    }

    fn bytes<const N: usize>(&self, address: usize) -> [u8; N] {
        std::array::from_fn(|index| {
            let found = self.0.iter().find(|(at, _)| *at == address + index);
            found.unwrap_or_else(|| panic!("nothing at {:#x}", address + index)).1
        })
    }

    fn u32(&self, address: usize) -> u32 {
        u32::from_le_bytes(self.bytes(address))
    }

    fn u16(&self, address: usize) -> u16 {
        u16::from_le_bytes(self.bytes(address))
    }

    fn server(&self, address: usize) -> Server {
        Server {
            weight: self.u32(address + offset_of!(Server, weight)),
            active: self.u32(address + offset_of!(Server, active)),
            inactive: self.u32(address + offset_of!(Server, inactive)),
            reserved: self.u32(address + offset_of!(Server, reserved)),
            address: self.bytes(address + offset_of!(Server, address)),
        }
    }
}

fn mapped(last: [u8; 4]) -> [u8; 16] {
    let mut address = [0; 16];
    address[10..12].fill(0xff);
    address[12..].copy_from_slice(&last);
    address
}

#[test]
fn the_worked_example_is_what_its_text_says() {
    let dump = Dump::read();
    let table = 0x400;
    let field = |offset| dump.u32(table + offset);
    assert_eq!(field(offset_of!(Table, abi_version)), ABI_VERSION);
    assert_eq!(field(offset_of!(Table, wants)), WANTS_LOAD);
    assert_eq!(field(offset_of!(Table, capacity)), 4);
    assert_eq!(field(offset_of!(Table, count)), 3);
    assert_eq!((field(offset_of!(Table, worker)), field(offset_of!(Table, workers))), (0, 1));
    let params_end = field(offset_of!(Table, params)) + field(offset_of!(Table, params_capacity));
    assert_eq!(params_end, field(offset_of!(Table, keys)), "they lie one behind the other");
    assert_eq!(field(offset_of!(Table, state)), 0);

    let servers = [
        Server { weight: 1, inactive: 4, address: mapped([10, 0, 0, 1]), ..Server::default() },
        Server::default(),
        Server {
            weight: 5,
            active: 2,
            inactive: 7,
            address: mapped([10, 0, 0, 3]),
            ..Server::default()
        },
        Server::default(),
    ];
    let keys = field(offset_of!(Table, keys)) as usize;
    for (slot, expected) in servers.iter().enumerate() {
        let at = field(offset_of!(Table, servers)) as usize + slot * size_of::<Server>();
        assert_eq!(dump.server(at), *expected, "slot {slot}");
        let key = f64::from_le_bytes(dump.bytes(keys + slot * size_of::<f64>()));
        assert_eq!(key, expected.load_key(slot), "slot {slot}");
    }
    assert_eq!(slot_of_key(f64::from_le_bytes(dump.bytes(keys))), Some(0));

    let flow = field(offset_of!(Table, flow)) as usize;
    assert_eq!(dump.bytes(flow + offset_of!(Flow, source)), mapped([192, 168, 100, 11]));
    assert_eq!(dump.bytes(flow + offset_of!(Flow, destination)), mapped([172, 17, 100, 100]));
    assert_eq!(dump.u16(flow + offset_of!(Flow, source_port)), 40_000);
    assert_eq!(dump.u16(flow + offset_of!(Flow, destination_port)), 80);
    assert_eq!(dump.u32(flow + offset_of!(Flow, protocol)), 6);

    let changes = field(offset_of!(Table, changes)) as usize;
    assert_eq!(dump.u32(changes + offset_of!(Changes, count)), 1);
    assert_eq!(dump.u16(changes + offset_of!(Changes, slots)), 2);
}
