//! The gallery of bad plugins, each uploaded to a running director and put to use under load. It
//! gets the answer that plugins/ABI.md promises, and no request of a client fails.

mod common;
#[path = "gallery/mod.rs"]
mod exhibits;

use common::load::Load;
use common::metrics::Metrics;
use common::{DNS, PATIENCE, Site, http, service, shunt};
use director::plugin_views::{
    EventView, EventsView, PluginShowView, PluginView, UploadView, VersionState,
};
use exhibits::{Answer, Call, Exhibit, Sentence, exhibit, gallery};
use lab::{Config, Director, Family, Plan, real_server_address, vip};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Connections that are held open meanwhile.
const HELD: usize = 10;
/// Failures that a plugin is forgiven.
const FAILURES: u64 = 3;
/// The plugin that works, and that the bad ones take the place of.
const GOOD: &str = include_str!("../plugins/examples/wat/random.wat");
/// What its author calls it there.
const GOOD_LABEL: &str = "\"1.0.0\"";

/// A director under load whose services all use the plugin `my`.
struct Stage {
    /// The version that works.
    good: Cell<u32>,
    tcp: Load,
    udp: NewFlows,
    director: Director,
    site: Site,
}

impl Stage {
    fn build(name: &'static str) -> Stage {
        let site = Site::build(Plan::new(name), &[Family::V4]);
        let services = ["tcp", "udp"].map(|protocol| service(protocol, Family::V4, "rr", 2));
        let mut config = Config::of(services.into());
        // A port whose flow has ended is good for another new flow.
        config.api = format!("[plugins]\nfailures = {FAILURES}\n[timeouts]\nudp = 1");
        let director = site.start(&config);
        let tcp = Load::start(&site.topology, http(Family::V4), HELD, true);
        let udp = NewFlows::start(&site);
        let stage = Stage { good: Cell::new(0), tcp, udp, director, site };
        stage.restore();
        for name in stage.services() {
            stage.change(&name, r#"{"scheduler": "my"}"#).expect("it is there");
        }
        stage
    }

    fn services(&self) -> [String; 2] {
        ["tcp", "udp"].map(|protocol| service(protocol, Family::V4, "", 0).name())
    }

    /// Asks the API. Returns the status and what it says.
    fn api(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let mut socket = UnixStream::connect(self.director.socket()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: shunt\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).unwrap();
        socket.write_all(body).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: {answer}"));
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn read<V: DeserializeOwned>(&self, path: &str) -> V {
        let (status, view) = self.api("GET", path, b"");
        assert_eq!(status, 200, "{path}: {view}");
        serde_json::from_value(view).unwrap()
    }

    /// What `my` is at present.
    fn plugin(&self) -> PluginView {
        self.read::<PluginShowView>("/v1/plugins/my").plugin
    }

    /// Uploads what is accepted. Returns its version.
    fn upload(&self, file: &[u8]) -> u32 {
        let (status, view) = self.api("PUT", "/v1/plugins/my", file);
        assert_eq!(status, 201, "{view}");
        serde_json::from_value::<UploadView>(view).unwrap().version
    }

    fn change(&self, service: &str, body: &str) -> Result<(), (u16, String)> {
        let path = format!("/v1/services/{service}/scheduler");
        match self.api("PUT", &path, body.as_bytes()) {
            (200..=299, _) => Ok(()),
            (status, view) => Err((status, error(&view))),
        }
    }

    /// Changes a real server's weight in all services.
    fn set_weight(&self, number: u8, weight: u16) {
        let address = real_server_address(number, Family::V4);
        for service in self.services() {
            let words = format!("server set {service} {address} --weight {weight}");
            if let Err(error) = self.director.shunt(&words) {
                panic!("{error}\n{}", self.director.process().output());
            }
        }
    }

    /// Begins anew with a version that works.
    fn restore(&self) {
        // Were it the same file, it might be the same version.
        let label = format!("\"after-{}\"", self.good.get());
        self.good.set(self.upload(GOOD.replace(GOOD_LABEL, &label).as_bytes()));
    }

    fn wait_for(&self, what: &str, wanted: impl Fn() -> bool) {
        if let Err(error) = self.director.process().wait_until(PATIENCE, what, wanted) {
            let said = self.director.process().output();
            panic!("{error}\n{:#?}\n{said}", self.plugin());
        }
    }

    /// Waits for an event about a version.
    fn wait_for_event(&self, kind: &str, version: u32) -> EventView {
        let find = || {
            let mut events = self.read::<EventsView>("/v1/events").events.into_iter();
            events.find(|event| event.kind == kind && event.version == Some(version))
        };
        self.wait_for(&format!("{kind} of my@{version}"), || find().is_some());
        find().expect("it was there")
    }

    /// A sum over the services and workers that a version was used for; 0 where nothing is yet.
    fn metric(&self, name: &str, version: u32, more: &[(&str, &str)]) -> f64 {
        let version = version.to_string();
        let mut labels = vec![("plugin", "my"), ("version", &*version)];
        labels.extend(more);
        let metrics = Metrics::fetch(&self.site.topology.director);
        metrics.with(name, &labels).map(|sample| sample.value).sum()
    }

    fn fallbacks(&self, version: u32, reason: &str) -> f64 {
        self.metric("shunt_plugin_fallbacks_total", version, &[("reason", reason)])
    }

    /// Waits until a version was asked so often.
    fn wait_for_calls(&self, version: u32, calls: f64) {
        self.wait_for(&format!("{calls} calls of my@{version}"), || {
            self.metric("shunt_plugin_calls_total", version, &[]) >= calls
        });
    }

    /// Ends the load. Nothing of it may have failed.
    fn finish(self) -> BTreeMap<String, usize> {
        let said = self.director.process().output();
        let (tcp, udp) = (self.tcp.finish(), self.udp.finish());
        assert!(tcp.failures.is_empty(), "{:?}\n{said}", tcp.failures);
        assert!(udp.is_empty(), "{udp:?}\n{said}");
        assert!(tcp.held > 0, "{tcp:?}");
        tcp.new
    }
}

fn error(view: &Value) -> String {
    view["error"].as_str().unwrap_or_else(|| panic!("no sentence: {view}")).to_owned()
}

/// New flows over UDP, one after the other, each of which is answered.
struct NewFlows {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl NewFlows {
    fn start(site: &Site) -> NewFlows {
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let ask_on = move || {
            // Below those that the kernel gives away by itself.
            let ports = (10_000..30_000).cycle().take_while(|_| !stopped.load(Relaxed));
            ports
                .filter_map(|port| ask(port).err().map(|error| format!("{port}: {error}")))
                .collect()
        };
        // A thread that is started inside a namespace stays there.
        let thread = site.topology.client.run(move || thread::spawn(ask_on)).unwrap();
        NewFlows { stop, thread }
    }

    fn finish(self) -> Vec<String> {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

/// One datagram from a port, and the answer to it.
fn ask(port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect((vip(Family::V4), DNS))?;
    socket.send(b"who")?;
    socket.recv(&mut [0; 64]).map(drop)
}

/// Plays one of the gallery, and ends with the version that works in its place.
fn play(stage: &Stage, bad: &Exhibit) {
    match &bad.answer {
        Answer::Refused(sentence) => assert_refused(stage, bad, sentence),
        Answer::RefusesParameters(sentence) => assert_refuses_parameters(stage, bad, sentence),
        Answer::Fails { reason, call: Call::Update } => fails_in_update(stage, bad, reason),
        Answer::Fails { reason, call: Call::Restore } => {
            let version = succeed_itself(stage, bad);
            let kind = if reason == "trap" { "restored" } else { "benched" };
            stage.wait_for_event(kind, version);
            assert!(stage.fallbacks(version, reason) >= 1.0, "{}", bad.name);
        }
        Answer::Fails { reason, .. } => fails_in_schedule(stage, bad, reason),
        Answer::StartsFresh => {
            let version = succeed_itself(stage, bad);
            assert_works(stage, version);
        }
        Answer::Works => assert_works(stage, stage.upload(&bad.file)),
    }
    stage.restore();
}

fn assert_refused(stage: &Stage, bad: &Exhibit, sentence: &Sentence) {
    let (status, view) = stage.api("PUT", "/v1/plugins/my", &bad.file);
    let error = error(&view);
    // One that is too large is not even read.
    let expected = if bad.name == "of_50_mb" { 413 } else { 422 };
    assert_eq!(status, expected, "{}: {error}", bad.name);
    let said = error.strip_prefix("plugin my: ").unwrap_or(&error);
    assert!(sentence.is(said), "{}: {error}", bad.name);
    assert_eq!(stage.plugin().version, stage.good.get(), "{}", bad.name);
}

fn assert_refuses_parameters(stage: &Stage, bad: &Exhibit, sentence: &Sentence) {
    let version = stage.upload(&bad.file);
    let [tcp, _] = stage.services();
    let (status, error) = stage.change(&tcp, r#"{"params": {"key": "value"}}"#).unwrap_err();
    assert_eq!(status, 422, "{}: {error}", bad.name);
    assert!(sentence.is(error.strip_prefix("plugin my: ").unwrap_or(&error)), "{error}");
    assert_works(stage, version);
}

/// Those that fail on the servers of the moment are refused; the others when the servers change.
fn fails_in_update(stage: &Stage, bad: &Exhibit, reason: &str) {
    if !bad.name.starts_with("update_traps_") {
        let (status, view) = stage.api("PUT", "/v1/plugins/my", &bad.file);
        let error = error(&view);
        let what = format!("shunt_update failed on the servers of the virtual service ({reason})");
        assert_eq!(status, 409, "{}: {error}", bad.name);
        assert!(error.contains(&what), "{}: {error}", bad.name);
        return;
    }
    let version = stage.upload(&bad.file);
    stage.wait_for_calls(version, 10.0);
    stage.set_weight(1, 7);
    stage.wait_for(&format!("{} traps", bad.name), || stage.fallbacks(version, reason) >= 1.0);
    // Whatever became of the plugin, the director still does as it is told.
    stage.set_weight(1, 1);
}

fn fails_in_schedule(stage: &Stage, bad: &Exhibit, reason: &str) {
    if bad.name == "one_slot" {
        let (status, view) = stage.api("PUT", "/v1/plugins/my", &bad.file);
        assert_eq!(status, 409, "{view}");
        assert!(error(&view).contains("can choose from 1 real servers"), "{view}");
        return;
    }
    if reason == "unavailable" {
        stage.set_weight(2, 0);
    }
    let version = stage.upload(&bad.file);
    if reason == "declined" {
        stage.wait_for("50 flows declined", || stage.fallbacks(version, reason) >= 50.0);
        assert_eq!(stage.plugin().version, version, "declining is no failure");
        return;
    }
    let kind = if reason == "out_of_fuel" { "benched" } else { "automatic_rollback" };
    let event = stage.wait_for_event(kind, version);
    assert!(stage.fallbacks(version, reason) >= 1.0, "{}: {event:?}", bad.name);
    let dump = event.dump.unwrap_or_else(|| panic!("{} leaves no dump", bad.name));
    assert!(Path::new(&dump).exists(), "{}: {dump}", bad.name);
    if kind == "automatic_rollback" {
        assert_eq!(stage.plugin().version, stage.good.get(), "{}", bad.name);
        let kind = [("kind", "automatic")];
        assert_eq!(stage.metric("shunt_plugin_rollbacks_total", version, &kind), 1.0);
    }
    if reason == "unavailable" {
        stage.set_weight(2, 1);
    }
}

/// Has another version of the same plugin take its place, to which it may hand its state.
fn succeed_itself(stage: &Stage, bad: &Exhibit) -> u32 {
    let version = stage.upload(&bad.file);
    stage.wait_for_calls(version, 10.0);
    let text = String::from_utf8(bad.file.clone()).unwrap();
    let end = text.rfind(')').unwrap();
    let successor = format!("{}(@custom \"shunt.version\" \"next\"))", &text[..end]);
    stage.upload(successor.as_bytes())
}

/// A version is asked, and none of its calls fails.
fn assert_works(stage: &Stage, version: u32) {
    let before = stage.metric("shunt_plugin_calls_total", version, &[]);
    stage.wait_for_calls(version, before + 100.0);
    assert_eq!(stage.metric("shunt_plugin_fallbacks_total", version, &[]), 0.0);
    assert_eq!(stage.plugin().version, version);
}

#[test]
fn each_bad_plugin_gets_its_documented_answer_and_traffic_goes_on() {
    let stage = Stage::build("gallery");
    for bad in gallery().iter().filter(|bad| bad.name != "goes_bad") {
        println!("{}", bad.name);
        play(&stage, bad);
    }
    let served = stage.finish();
    assert_eq!(served.len(), 2, "both real servers were used: {served:?}");
}

/// 10,000 good calls, then nonsense: nobody has to do anything.
#[test]
fn a_plugin_that_goes_bad_is_rolled_back_by_itself_and_its_dump_repeats_the_call() {
    let stage = Stage::build("goes-bad");
    let bad = exhibit("goes_bad");
    let version = stage.upload(&bad.file);
    let event = stage.wait_for_event("automatic_rollback", version);
    let good = stage.good.get();
    let said = format!("plugin my@{version} failed ");
    assert!(event.message.starts_with(&said), "{}", event.message);
    assert!(event.message.ends_with(&format!("my@{good} takes its place")), "{}", event.message);
    assert!(stage.director.process().output().contains(&event.message), "it is in the log, too");
    assert!(stage.metric("shunt_plugin_calls_total", version, &[]) > 10_000.0);
    assert!(stage.fallbacks(version, "out_of_range") > FAILURES as f64);
    let automatic = [("kind", "automatic")];
    assert_eq!(stage.metric("shunt_plugin_rollbacks_total", version, &automatic), 1.0);

    let view = stage.plugin();
    assert_eq!((view.version, view.rollbacks), (good, 1));
    let failed = view.versions.iter().find(|of| of.version == version).unwrap();
    assert_eq!(failed.state, VersionState::Failed);
    assert!(failed.reason.as_ref().unwrap().contains("failures within"), "{failed:?}");
    let before = stage.metric("shunt_plugin_calls_total", good, &[]);
    stage.wait_for_calls(good, before + 100.0);
    assert_eq!(stage.metric("shunt_plugin_fallbacks_total", good, &[]), 0.0);

    let dump = event.dump.expect("a dump");
    let replay = |name: &str, file: &[u8]| {
        let file = stage.site.topology.files.write(name, file).unwrap();
        let mut check = Command::new(shunt());
        check.args(["plugin", "check"]).arg(&file).args(["--replay", &dump]).output().unwrap()
    };
    let again = replay("goes_bad.wat", &bad.file);
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success(), "{said}{}", String::from_utf8_lossy(&again.stderr));
    assert!(said.contains("out_of_range in shunt_schedule of plugin my"), "{said}");
    let other = replay("good.wat", GOOD.as_bytes());
    assert!(!other.status.success(), "{}", String::from_utf8_lossy(&other.stdout));
    stage.finish();
}
