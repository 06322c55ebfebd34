//! Parameters: how a plugin gets them, and what it, or the host, does not take.

mod common;

use common::*;
use dataplane::Failure;
use plugin_host::{Error, Limits, Params, Plugin, PluginHost};

fn params(pairs: &[(&str, &str)]) -> Params {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A plugin with room for so many bytes of parameters at 2048, and these functions.
fn wasm(capacity: u32, functions: &str) -> Vec<u8> {
    let room = words(104, &[2048, capacity]);
    module(&[MEMORY, TABLE, &room, ABI_VERSION, INIT, functions])
}

/// A plugin with room for 64 bytes whose `shunt_configure` has this body, and whose answer is the
/// word at 0.
fn configured(body: &str) -> Plugin {
    load(&wasm(
        64,
        &format!(
            r#"(func (export "shunt_configure") (param $length i32) (result i32) {body})
               (func (export "shunt_schedule") (result i32) (i32.load (i32.const 0)))"#
        ),
    ))
}

/// Why the plugin does not take these parameters.
fn refusal(plugin: &Plugin, pairs: &[(&str, &str)]) -> String {
    let error = plugin.check_params(&params(pairs)).unwrap_err();
    let instance = plugin.scheduler(ALONE, &params(pairs)).map(drop).unwrap_err();
    assert_eq!(error, instance, "a check says what an instance says");
    match error {
        Error::Params { plugin, reason } => {
            assert_eq!(plugin, "test");
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_line_each_sorted_by_key() {
    let text = "a-1=x y\nb_2=true\nc=\nz=\u{e9}=5\n";
    // Compares what is at 2048 with the text byte by byte, and its length.
    let check: String = text
        .bytes()
        .enumerate()
        .map(|(at, byte)| {
            format!(
                "(if (i32.ne (i32.load8_u (i32.const {})) (i32.const {byte}))
                   (then (return (i32.const -1))))",
                2048 + at
            )
        })
        .collect();
    let length = text.len();
    let plugin = configured(&format!(
        "(i32.store (i32.const 0) (i32.const 1))
         (if (i32.ne (local.get $length) (i32.const {length})) (then (return (i32.const -2))))
         {check} (i32.const 0)"
    ));
    assert!(plugin.takes_params());
    let given = [("z", "\u{e9}=5"), ("b_2", "true"), ("a-1", "x y"), ("c", "")];
    plugin.check_params(&params(&given)).unwrap();
    let mut scheduler = plugin.scheduler(ALONE, &params(&given)).unwrap().0;
    scheduler.servers_changed(&candidates(&[1, 1]), 0).unwrap();
    assert_eq!(scheduler.choose(&FLOW, 0), Ok(1), "it was configured");
    assert_eq!(
        refusal(&plugin, &[("z", "5")]),
        "it refuses its parameters (z) and does not say why"
    );
}

#[test]
fn without_parameters_it_is_not_asked() {
    let plugin = configured("(unreachable)");
    let mut scheduler = plugin.scheduler(ALONE, &Params::new()).unwrap().0;
    scheduler.servers_changed(&candidates(&[1, 1]), 0).unwrap();
    assert_eq!(scheduler.choose(&FLOW, 0), Ok(0));
    plugin.check_params(&Params::new()).unwrap();
}

#[test]
fn the_plugin_says_why_it_refuses() {
    let says = |text: &str, answer: i32| {
        let stores: String = text
            .bytes()
            .enumerate()
            .map(|(at, byte)| format!("(i32.store8 (i32.const {}) (i32.const {byte}))", 2048 + at))
            .collect();
        configured(&format!("{stores} (i32.const {answer})"))
    };
    let one = [("fast", "maybe")];
    let sentence = "fast must be true or false";
    assert_eq!(refusal(&says(sentence, 26), &one), sentence);
    assert_eq!(refusal(&says("two\nlines\x1b[2J", 14), &one), "two lines [2J");
    let silent = "it refuses its parameters (fast) and does not say why";
    assert_eq!(refusal(&says("", -1), &one), silent);
    assert_eq!(refusal(&says("", i32::MIN), &one), silent);
    assert_eq!(refusal(&says("     \n       ", 12), &one), silent);
    // It claims more than there is room for: as much as there is.
    let rest = refusal(&says(sentence, i32::MAX), &one);
    assert!(rest.starts_with(sentence), "{rest}");
}

#[test]
fn a_plugin_that_takes_none() {
    let sentence = "it takes no parameters and \"fast\" is given: leave it out";
    assert_eq!(refusal(&load(&plugin(SCHEDULE)), &[("fast", "1"), ("slow", "1")]), sentence);
    let configure = r#"(func (export "shunt_configure") (param i32) (result i32) (i32.const 0))"#;
    let without_room = load(&plugin(&format!("{SCHEDULE} {configure}")));
    assert!(!without_room.takes_params());
    assert_eq!(refusal(&without_room, &[("fast", "1")]), sentence);
    load(&plugin(SCHEDULE)).check_params(&Params::new()).unwrap();
}

#[test]
fn parameters_that_none_can_take() {
    let plugin = configured("(i32.const 0)");
    let long = "x".repeat(257);
    for (key, value, sentence) in [
        ("", "1", "the parameter \"\" has a name that none can have: make it 1 to 64 letters"),
        ("a b", "1", "the parameter \"a b\" has a name that none can have"),
        ("a=b", "1", "the parameter \"a=b\" has a name"),
        ("é", "1", "the parameter \"é\" has a name"),
        (&long[..65], "1", "has a name that none can have"),
        ("k", &long, "the value of the parameter k is no line of at most 256 bytes: shorten it"),
        ("k", "a\nb", "the value of the parameter k is no line"),
        ("k", "\u{85}", "the value of the parameter k is no line"),
        (
            "k",
            &long[..62],
            "the parameters have 65 bytes and it has room for 64: give it fewer, or shorter ones",
        ),
    ] {
        let found = refusal(&plugin, &[(key, value)]);
        assert!(found.contains(sentence), "{found}");
    }
    plugin.check_params(&params(&[("k", &long[..61])])).unwrap();
    let key = &long[..64];
    load(&wasm(
        4096,
        &format!(
            r#"{SCHEDULE}
               (func (export "shunt_configure") (param i32) (result i32) (i32.const 0))"#
        ),
    ))
    .check_params(&params(&[(key, &long[..256])]))
    .unwrap();
}

#[test]
fn a_plugin_that_fails_on_its_parameters() {
    let trap = refusal(&configured("(unreachable)"), &[("k", "1")]);
    assert!(trap.starts_with("shunt_configure trapped (wasm trap: wasm `unreachable`"), "{trap}");
    assert_eq!(
        refusal(&configured("(loop (br 0)) (unreachable)"), &[("k", "1")]),
        "shunt_configure did not end within its 10000000 units of fuel: make it do less, or end at \
         all"
    );
}

/// The sentence that a module is refused with.
fn module_refusal(host: &PluginHost, wasm: &[u8]) -> String {
    match host.load("test", wasm) {
        Err(Error::Refused { refusal, .. }) => refusal.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn rooms_that_are_not_where_they_should_be() {
    let configure = format!(
        r#"{SCHEDULE} (func (export "shunt_configure") (param i32) (result i32) (i32.const 0))"#
    );
    let host = host();
    let with = |fields: &[u32]| {
        let table = words(104, fields);
        module(&[MEMORY, TABLE, &table, ABI_VERSION, INIT, &configure])
    };
    let room = |record: &str, capacity: u32, limit: usize| {
        format!("its {record} has {capacity} bytes: make it 1 to {limit}")
    };
    let params = "room for parameters";
    assert_eq!(module_refusal(&host, &with(&[2048, 0])), room(params, 0, 4096));
    assert_eq!(module_refusal(&host, &with(&[2048, 4097])), room(params, 4097, 4096));
    let state = "room for state";
    assert_eq!(module_refusal(&host, &with(&[0, 0, 2048, 0])), room(state, 0, 4096));
    assert_eq!(module_refusal(&host, &with(&[0, 0, 2048, 4097])), room(state, 4097, 4096));
    let beyond = "reaches beyond its 65536 bytes of memory: give the address of static memory";
    for (fields, record) in [
        (&[65_500, 64][..], params),
        (&[u32::MAX, 1], params),
        (&[0, 0, 65_500, 64], state),
        (&[0, 0, 0, 0, 65_500], "list of changes"),
    ] {
        let sentence = module_refusal(&host, &with(fields));
        assert!(sentence.starts_with(&format!("its {record} at address")), "{sentence}");
        assert!(sentence.ends_with(beyond), "{sentence}");
    }
    assert_eq!(
        module_refusal(&host, &with(&[0, 0, 0, 0, 2050])),
        "its list of changes at address 2050 is not aligned: align it to 4 bytes"
    );
    let generous = Limits { state: 8192, ..Limits::default() };
    PluginHost::new(generous).unwrap().load("test", &with(&[0, 0, 2048, 8192])).unwrap();

    let without = module(&[MEMORY, TABLE, &words(104, &[2048, 9]), ABI_VERSION, INIT, SCHEDULE]);
    assert_eq!(
        module_refusal(&host, &without),
        "it has no export shunt_configure: export it as (i32) -> i32"
    );
    let wrong = format!(r#"{SCHEDULE} (func (export "shunt_save") (param i32))"#);
    assert_eq!(
        module_refusal(&host, &plugin(&wrong)),
        "its export shunt_save is (func (param i32)): make it () -> i32"
    );
}

#[test]
fn parameters_are_each_instances_own() {
    let plugin = configured(
        "(i32.store (i32.const 0) (i32.sub (i32.load8_u (i32.const 2050)) (i32.const 48)))
         (i32.const 0)",
    );
    let with = |value| plugin.scheduler(ALONE, &params(&[("k", value)])).unwrap().0;
    let (mut one, mut other) = (with("1"), with("7"));
    for scheduler in [&mut one, &mut other] {
        scheduler.servers_changed(&candidates(&[1; 4]), 0).unwrap();
    }
    assert_eq!(one.choose(&FLOW, 0), Ok(1));
    assert_eq!(other.choose(&FLOW, 0), Err(Failure::OutOfRange));
}
