//! Who may speak to the director: its socket's group, and other machines over TLS.

mod common;

use common::{PATIENCE, Site, http_rr, shunt};
use lab::{Config, Family, Netns, Plan, director_address, wait_until};
use rcgen::{CertificateParams, KeyPair};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PORT: u16 = 9465;
/// Users and groups of Debian that may do nothing by themselves.
const NOBODY: u32 = 65_534;
const DAEMON: u32 = 1;

fn secret(site: &Site, name: &str, content: &str) -> PathBuf {
    let path = site.topology.files.write(name, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

/// Certificate and key for the director's address, and the certificate again as its own authority.
fn write_certificate(site: &Site) {
    let key = KeyPair::generate().unwrap();
    let name = director_address(Family::V4).to_string();
    let certificate = CertificateParams::new(vec![name]).unwrap().self_signed(&key).unwrap();
    site.topology.files.write("certificate.pem", certificate.pem()).unwrap();
    secret(site, "key.pem", &key.serialize_pem());
}

/// `shunt list` on another machine.
fn list_from(machine: &Netns, url: &str, token: &Path, authority: &Path) -> Output {
    let mut command = machine.command(shunt());
    command.args(["list", "--api", url, "--token-file"]).arg(token).arg("--ca").arg(authority);
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn another_machine_commands_the_director_over_tls() {
    let site = Site::build(Plan::new("access"), &[Family::V4]);
    write_certificate(&site);
    let authority = site.topology.files.path().join("certificate.pem");
    let token = secret(&site, "token", "the-first-token-0");
    let folder = site.topology.files.path().display();
    let api = format!(
        "listen = \"{}:{PORT}\"\ntoken_file = \"{folder}/token\"\n\
         certificate = \"{folder}/certificate.pem\"\nkey = \"{folder}/key.pem\"",
        director_address(Family::V4)
    );
    let config = Config { api, ..Config::of(vec![http_rr(2)]) };
    let director = site.start(&config);
    let machine = site.topology.real_server(1);
    let at = format!("{}:{PORT}", director_address(Family::V4));
    let list = |token: &Path| list_from(machine, &format!("https://{at}"), token, &authority);

    let output = list(&token);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("172.17.100.100:80"), "{output:?}");
    let output = list_from(machine, &format!("http://{at}"), &token, &authority);
    assert!(stderr(&output).contains("use https://"), "{output:?}");

    // A new token and a new certificate, while it runs.
    let former = secret(&site, "former", "the-first-token-0");
    let token = secret(&site, "token", "the-second-token-0");
    write_certificate(&site);
    director.reload(&config).unwrap();
    let said = || director.process().output();
    wait_until(PATIENCE, "they are read", || said().contains("certificate read anew")).unwrap();
    assert!(list(&token).status.success(), "{}", said());
    assert!(stderr(&list(&former)).contains("the token is wrong"), "{}", said());
    assert!(said().contains("turned 172.17.100.1 away: a wrong token"), "{}", said());

    // One that others could read stays out.
    fs::set_permissions(&token, Permissions::from_mode(0o644)).unwrap();
    director.reload(&config).unwrap();
    wait_until(PATIENCE, "it is warned", || said().contains("stay as they were")).unwrap();
    fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
    assert!(list(&token).status.success(), "{}", said());
    assert!(!said().contains("the-second-token-0"), "{}", said());
}

#[test]
fn the_group_commands_the_director_and_others_do_not() {
    let site = Site::build(Plan::new("group"), &[Family::V4]);
    let config = Config { api: "group = \"daemon\"".into(), ..Config::of(vec![http_rr(2)]) };
    let director = site.start(&config);
    let socket = fs::metadata(director.socket()).unwrap();
    assert_eq!((socket.mode() & 0o777, socket.uid(), socket.gid()), (0o660, 0, DAEMON));

    let folder = site.topology.files.path();
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    // The build's own folder may be closed to others.
    let copy = folder.join("shunt");
    fs::copy(shunt(), &copy).unwrap();
    let list_as = |group: u32| {
        Command::new(&copy)
            .args(["list", "--api"])
            .arg(director.socket())
            .uid(NOBODY)
            .gid(group)
            .output()
            .unwrap()
    };
    let output = list_as(DAEMON);
    assert!(output.status.success(), "{output:?}");
    let output = list_as(NOBODY);
    assert!(stderr(&output).contains("as a member of [api] group"), "{output:?}");
}
