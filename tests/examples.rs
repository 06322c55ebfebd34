//! The examples in C, WAT and AssemblyScript (plugins/examples), uploaded to a running director:
//! how each balances real connections.

mod common;

use common::metrics::Metrics;
use common::plugins::upload;
use common::{PATIENCE, Site, http, http_rr};
use lab::{Config, Director, Family, Plan, get_once, real_server_address};
use std::collections::BTreeMap;
use std::path::Path;

/// A director whose HTTP service goes by an example, uploaded as its users would.
struct Stage {
    director: Director,
    service: String,
    name: &'static str,
    site: Site,
}

impl Stage {
    fn build(path: &str, name: &'static str, params: &str) -> Stage {
        let mut site = Site::build(Plan::new(name), &[Family::V4]);
        let number = site.topology.add_real_server().unwrap();
        site.serve(number);
        let config = Config::of(vec![http_rr(3)]);
        let director = site.start(&config);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/examples");
        upload(&director, &folder.join(path));
        let service = config.services[0].name();
        director.shunt(&format!("service set {service} --scheduler {name} {params}")).unwrap();
        Stage { director, service, name, site }
    }

    fn set_weight(&self, number: u8, weight: u16) {
        let address = real_server_address(number, Family::V4);
        let service = &self.service;
        let words = format!("server set {service} {address} --weight {weight}");
        self.director.shunt(&words).unwrap();
    }

    /// How many of so many new connections each real server gets.
    fn connect(&self, count: usize) -> BTreeMap<String, usize> {
        let mut served = BTreeMap::new();
        for _ in 0..count {
            let answer = get_once(&self.site.topology.client, http(Family::V4), "/").unwrap();
            *served.entry(answer.real_server).or_default() += 1;
        }
        served
    }

    /// The example was asked so often, and never failed to answer.
    fn assert_it_chose(&self, flows: usize) {
        let metrics = Metrics::fetch(&self.site.topology.director);
        let labels = [("plugin", self.name)];
        assert_eq!(metrics.sum("shunt_plugin_calls_total", &labels), flows as f64);
        assert_eq!(metrics.sum("shunt_plugin_fallbacks_total", &labels), 0.0);
    }
}

fn served(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
}

#[test]
fn affinity_in_c_keeps_a_clients_network_at_one_server() {
    // All connections come from one network, and end at once.
    let stage =
        Stage::build("c/affinity.wasm", "affinity", "--param prefix-v4=16 --param bound=1000");
    let home = stage.connect(60);
    assert_eq!(home.len(), 1, "{home:?}");
    let (name, _) = home.first_key_value().unwrap();
    let number = name.strip_prefix("rs").unwrap().parse().unwrap();
    stage.set_weight(number, 0);
    let elsewhere = stage.connect(40);
    assert!(elsewhere.len() == 1 && !elsewhere.contains_key(name), "{elsewhere:?}");
    stage.set_weight(number, 1);
    assert_eq!(stage.connect(20), served(&[(name, 20)]), "it returns");
    stage.assert_it_chose(120);
    let refused = stage.director.shunt(&format!("service set {} --param bound=5", stage.service));
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("bound must be 101 to 1000, percent of a server's share"),
        "{refused}"
    );
    assert_eq!(stage.connect(20), served(&[(name, 20)]), "nothing has changed");
}

#[test]
fn random_in_wat_follows_the_weights_on_average() {
    let stage = Stage::build("wat/random.wat", "random", "");
    stage.set_weight(1, 0);
    stage.set_weight(3, 3);
    let served = stage.connect(400);
    // The mean is 300, the standard deviation 8.7.
    assert!(!served.contains_key("rs1"), "{served:?}");
    assert!((250..350).contains(&served["rs3"]), "{served:?}");
    stage.assert_it_chose(400);
}

#[test]
fn slow_start_in_assemblyscript_lets_a_server_in_gently() {
    let stage =
        Stage::build("assemblyscript/slow_start.wasm", "slow_start", "--param seconds=86400");
    assert_eq!(stage.connect(60), served(&[("rs1", 20), ("rs2", 20), ("rs3", 20)]));
    stage.set_weight(3, 0);
    assert_eq!(stage.connect(40), served(&[("rs1", 20), ("rs2", 20)]));
    stage.set_weight(3, 1);
    // A tenth of a share for as long as this takes: 10 of 210.
    let gently = stage.connect(210);
    assert!((9..=11).contains(&gently["rs3"]), "{gently:?}");
    // Other parameters are for new instances, which take over who is on the way.
    stage.director.shunt(&format!("service set {} --param seconds=80000", stage.service)).unwrap();
    let still = stage.connect(210);
    assert!((9..=11).contains(&still["rs3"]), "{still:?}");
    stage.assert_it_chose(520);
    let line = "1 new in service, with a tenth of the share at first";
    let process = stage.director.process();
    process.wait_until(PATIENCE, line, || process.output().contains(line)).unwrap();
}
