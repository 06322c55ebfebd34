//! Plugins over the API as an operator without `shunt` at hand would: with curl.
//!
//! Needs curl, so it runs with the feature `ci`.

mod common;

use common::plugins::{all_go_to, always, answer, file};
use common::{Site, http_rr};
use director::plugin_views::{EventsView, PluginsView};
use lab::{Config, Director, Family, Plan};
use std::process::Command;

/// Runs curl against the director's socket and returns the status and what it answered.
fn curl(director: &Director, path: &str, arguments: &[&str]) -> (u32, String) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--write-out", "\n%{http_code}", "--unix-socket"]);
    curl.arg(director.socket()).args(arguments).arg(format!("http://shunt{path}"));
    let said = lab::run(&mut curl).unwrap();
    let (body, status) = said.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

#[test]
fn curl_uploads_lists_rolls_back_and_removes() {
    let site = Site::build(Plan::new("curl"), &[Family::V4]);
    let net = &site.topology;
    let config = Config::of(vec![http_rr(2)]);
    let director = site.start(&config);
    let upload = |number: u8| {
        let file = file(net, "my", &always(number, &format!("0.{number}")));
        let (status, body) = curl(&director, "/v1/plugins/my", &["-T", file.to_str().unwrap()]);
        (status, answer(&body))
    };
    let (status, first) = upload(1);
    assert_eq!((status, first.version, first.unchanged), (201, 1, false));
    let (status, again) = upload(1);
    assert_eq!((status, again.version, again.unchanged), (200, 1, true));
    let (status, second) = upload(2);
    assert_eq!((status, second.version, second.label.as_deref()), (201, 2, Some("0.2")));

    let scheduler = format!("/v1/services/{}/scheduler", config.services[0].name());
    let (status, body) =
        curl(&director, &scheduler, &["-X", "PUT", "-d", "{\"scheduler\": \"my\"}"]);
    assert_eq!((status, body.as_str()), (204, ""));
    all_go_to(net, Family::V4, "rs2");
    let (status, body) = curl(&director, "/v1/plugins/my/rollback", &["-X", "POST"]);
    assert_eq!((status, answer(&body).version), (200, 1));
    all_go_to(net, Family::V4, "rs1");
    let (status, body) =
        curl(&director, "/v1/plugins/my/rollback", &["-X", "POST", "-d", "{\"to\": 2}"]);
    assert_eq!((status, answer(&body).version), (200, 2));
    let (status, body) =
        curl(&director, &scheduler, &["-X", "PUT", "-d", "{\"params\": {\"server\": \"1\"}}"]);
    assert_eq!((status, body.as_str()), (204, ""));
    all_go_to(net, Family::V4, "rs1");

    let (status, body) = curl(&director, "/v1/plugins", &[]);
    let listed: PluginsView = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    assert!(listed.plugins.iter().any(|plugin| plugin.name.as_str() == "my"), "{body}");
    let (status, body) = curl(&director, "/v1/plugins/my", &["-X", "DELETE"]);
    assert!(status == 409 && body.contains("tcp:"), "{status} {body}");
    let (status, _) = curl(&director, "/v1/plugins/my?version=1", &["-X", "DELETE"]);
    assert_eq!(status, 204);
    let (status, body) = curl(&director, "/v1/events", &[]);
    let events: EventsView = serde_json::from_str(&body).unwrap();
    let kinds: Vec<&str> = events.events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        (status, &kinds[..]),
        (200, &["upload", "upload", "rollback", "rollback", "removed"][..])
    );
    let text = site.topology.files.write("text.wasm", "no plugin").unwrap();
    let (status, body) = curl(&director, "/v1/plugins/my", &["-T", text.to_str().unwrap()]);
    assert!(status == 422 && body.contains("error"), "{status} {body}");
}
