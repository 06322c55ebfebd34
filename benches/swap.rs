//! How long does an upload take until it serves, and how long do the workers pause for it?
//!
//! The whole `shunt run` with two workers in namespaces, four services that use one plugin, and
//! 20,000 packets a second, one in ten of a new flow. The plugin is replaced again and again
//! through the API: by stock plugins, and by modules of about 3 and 30 KB that are made for this,
//! all of which is compiled. Each upload differs from the one before, so that none is taken for
//! the same file. Timed by the client, from its first byte to the answer, which comes when all
//! workers have adopted the new version; the pause is timed by the workers.
//!
//! `cargo bench -p director --bench swap`             as root, one minute
//! `cargo bench -p director --bench swap -- my.wasm`  a file of your own beside them

#[path = "../tests/common/mod.rs"]
mod common;

use common::kernel_counts::KernelCounts;
use common::numbered::{Numbered, Rate};
use common::swaps::{block_on, instances_of, show_plugin};
use common::{Site, service};
use director::client::{Api, ask};
use director::plugin_views::UploadView;
use hyper::Method;
use lab::{Config, Family, Plan};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const UPLOADS: u32 = 300;
const WARM_UP: u32 = 5;
const SERVICES: u16 = 4;
const FIRST_PORT: u16 = 5_353;
const REAL_SERVERS: u8 = 4;
const RATE: Rate = Rate { packets: 20_000, new_flows: 2_000 };
const NAME: &str = "rr";

fn main() {
    lab::require_root("this bench", "cargo bench -p director --bench swap").unwrap_or_else(|e| {
        eprintln!("{e}");
        std::process::exit(1);
    });
    let mut modules = vec![
        ("rr".to_owned(), stock("rr/rr.wasm")),
        ("mh".to_owned(), stock("mh/mh.wasm")),
        ("made, 3 KB".to_owned(), made(3_000)),
        ("made, 30 KB".to_owned(), made(30_000)),
    ];
    for file in std::env::args().skip(1).filter(|argument| argument != "--bench") {
        let file = PathBuf::from(file);
        let bytes = std::fs::read(&file).unwrap_or_else(|error| {
            eprintln!("cannot read {} ({error}): name a .wasm file", file.display());
            std::process::exit(1);
        });
        modules.push((file.display().to_string(), bytes));
    }

    println!(
        "{SERVICES} services, 2 workers, {UPLOADS} uploads each; ms until it serves; a worker's pause, ns"
    );
    println!(
        "{:<14} {:>7} {:>7} {:>7} {:>7} {:>8} {:>8}",
        "plugin", "bytes", "p50", "p99", "max", "p50", "p99.9"
    );
    for (name, module) in &modules {
        measure(name, module);
    }
}

/// One module, with a director of its own, so that the pauses are its own.
fn measure(name: &str, module: &[u8]) {
    let plan = Plan::new("swap").queues(2).real_servers(REAL_SERVERS);
    let site = Site::build(plan, &[Family::V4]);
    let of_port = |port| {
        let mut service = service("udp", Family::V4, NAME, REAL_SERVERS);
        service.address.set_port(port);
        service
    };
    let services = (FIRST_PORT..FIRST_PORT + SERVICES).map(of_port).collect();
    let top = "flows = 200_000\nflows_v6 = 1_024\ntimeouts = { udp = 3 }".to_owned();
    let director = site.start(&Config { top, ..Config::of(services) });
    let api = Api::at_socket(director.socket());
    let before = KernelCounts::read(&site.topology);
    let load = Numbered::start(&site.topology, FIRST_PORT, RATE, RATE.packets * 600);

    let mut times: Vec<Duration> = Vec::new();
    for number in 0..WARM_UP + UPLOADS {
        let file = numbered(module, number);
        let begun = Instant::now();
        let answer = block_on(ask(&api, Method::PUT, &format!("/v1/plugins/{NAME}"), file));
        let time = begun.elapsed();
        let view: UploadView = serde_json::from_slice(&answer.unwrap()).unwrap();
        assert!(!view.unchanged && view.services == usize::from(SERVICES), "{view:?}");
        if number >= WARM_UP {
            times.push(time);
        }
    }
    let shown = show_plugin(&api, NAME);
    assert_eq!(shown.plugin.instances, instances_of(SERVICES), "{shown:?}");
    let tally = load.finish();
    times.sort_unstable();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e3;
    let swap = shown.plugin.swap.expect("swaps that were timed");
    println!(
        "{name:<14} {:>7} {:>7.1} {:>7.1} {:>7.1} {:>8} {:>8}",
        module.len(),
        at(0.5),
        at(0.99),
        times[times.len() - 1].as_secs_f64() * 1e3,
        swap.p50,
        swap.p999
    );
    let dropped = KernelCounts::read(&site.topology).since(&before);
    if (tally.lost, tally.twice, tally.moved) != (0, 0, 0) {
        println!("  {tally:?}, the kernel: {dropped:?}");
    }
}

fn stock(file: &str) -> Vec<u8> {
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins");
    std::fs::read(plugins.join(file)).expect("a stock plugin")
}

/// The module with a custom section at its end that no other has (Wasm specification, 5.5.3).
fn numbered(module: &[u8], number: u32) -> Vec<u8> {
    let mut module = module.to_vec();
    module.extend([0, 7, 2, b'n', b'o']);
    module.extend(number.to_le_bytes());
    module
}

/// Round robin, and functions that do something with numbers until the module has about this many
/// bytes. They are called, so that nothing can be left out.
fn made(bytes: usize) -> Vec<u8> {
    let mut count = 1;
    loop {
        let module = wat::parse_str(made_text(count)).expect("a well-formed module");
        if module.len() >= bytes {
            return module;
        }
        count += 1;
    }
}

fn made_text(functions: u32) -> String {
    let function = |number: u32| {
        let next = match number + 1 {
            last if last == functions => "(local.get $x)".to_owned(),
            next => format!("(call $f{next} (local.get $x))"),
        };
        format!(
            "(func $f{number} (param $x i32) (result i32)
               (local.set $x (i32.xor (i32.mul (local.get $x) (i32.const {})) (i32.const {number})))
               (if (i32.and (local.get $x) (i32.const 1))
                 (then (local.set $x (i32.rotl (local.get $x) (i32.const 7))))
                 (else (local.set $x (i32.sub (i32.const {number}) (local.get $x)))))
               (i32.store offset=40000 (i32.and (local.get $x) (i32.const 1020)) (local.get $x))
               (i32.add (i32.load offset=40000 (i32.const {})) {next}))\n",
            2_654_435_761_u32.wrapping_mul(number + 1) as i32,
            number % 256 * 4,
        )
    };
    let functions: String = (0..functions).map(function).collect();
    format!(
        r#"(module
          (memory (export "memory") 1)
          (global $turn (mut i32) (i32.const 0))
          (data (i32.const 64) "\01\00\00\00\00\00\00\00\00\04\00\00\00\10\00\00")
          (func (export "shunt_abi_version") (result i32) (i32.const 1))
          (func (export "shunt_init") (param i32 i32 i64) (result i32) (i32.const 64))
          {functions}
          (func (export "shunt_schedule") (result i32)
            (drop (call $f0 (global.get $turn)))
            (global.set $turn (i32.add (global.get $turn) (i32.const 1)))
            (i32.rem_u (global.get $turn) (i32.load (i32.const 88)))))"#
    )
}
