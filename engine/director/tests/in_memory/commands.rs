//! The commands against a director: what they print, what they change, how they exit.

use crate::world::{CONFIG, SERVICE, World, rs};
use director::config::Config;
use director::scheduler_name::stock_only;
use director::views::{FlowView, ServicesView};
use std::process::{Command, Output};

pub fn run(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shunt")).args(words).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The command's output, which must succeed.
pub fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(output), stderr(output));
    stdout(output)
}

/// A command that must fail, with one line that says this.
pub fn failed(output: &Output, expected: &str) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{}{message}", stdout(output));
    assert!(message.starts_with("shunt: ") && message.contains(expected), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn list_prints_the_columns_of_ipvsadm() {
    let world = World::new();
    for number in 0..3 {
        world.connect(0, number);
    }
    world.send(0, &frames::tcp_of(9, "S"));
    let text = done(&world.shunt("list"));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("shunt "), "{text}");
    assert_eq!(lines[3], "TCP  172.17.100.100:80 rr");
    let servers: Vec<Vec<&str>> =
        lines[4..6].iter().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(servers[0][..4], ["->", "172.17.100.1:80", "Route", "1"]);
    let sum =
        |column: usize| servers.iter().map(|s| s[column].parse::<u32>().unwrap()).sum::<u32>();
    assert_eq!((sum(4), sum(5)), (3, 1));

    let text = done(&world.shunt("list --stats"));
    let columns: Vec<&str> = text.lines().nth(3).unwrap().split_whitespace().collect();
    assert_eq!(columns[..5], ["TCP", "172.17.100.100:80", "4", "7", "0"]);

    let text = done(&world.shunt("list --flows"));
    assert_eq!(text.lines().filter(|line| line.contains(" ESTABLISHED ")).count(), 3, "{text}");
    assert_eq!(text.lines().filter(|line| line.contains(" SYN_RECV ")).count(), 1, "{text}");

    let view: ServicesView = serde_json::from_str(&done(&world.shunt("list --json"))).unwrap();
    assert_eq!(view, world.services());
    let flows: Vec<FlowView> =
        serde_json::from_str(&done(&world.shunt("list --flows --json"))).unwrap();
    assert_eq!(flows.len(), 4);
}

#[test]
fn no_flows_are_an_empty_list() {
    let world = World::new();
    assert_eq!(done(&world.shunt("list --flows --json")), "[]\n");
    assert_eq!(done(&world.shunt("list --flows")).lines().count(), 2);
}

#[test]
fn servers_and_schedulers_are_changed_and_marked() {
    let world = World::new();
    done(&world.shunt(&format!("service set {SERVICE} --scheduler wrr")));
    done(&world.shunt(&format!("server add {SERVICE} 172.17.100.4 --weight 2")));
    done(&world.shunt(&format!("server set {SERVICE} 172.17.100.1 --weight 3")));
    done(&world.shunt(&format!("server remove {SERVICE} 172.17.100.2")));
    let text = done(&world.shunt("list"));
    let lines: Vec<&str> = text.lines().skip(3).collect();
    for (line, expected) in [
        (lines[0], "TCP  172.17.100.100:80 wrr  [scheduler set at run time; the config has rr]"),
        (lines[1], "[weight set at run time; the config has 1]"),
        (lines[2], "[removed; removed at run time; the config has it]"),
        (lines[3], "[neighbor unresolved; added at run time]"),
    ] {
        assert!(line.ends_with(expected), "{text}");
    }

    let saved = done(&world.shunt("save"));
    let config = Config::parse(&saved, &stock_only).unwrap();
    let servers: Vec<_> = config.services[0]
        .servers
        .iter()
        .map(|server| (server.address.to_string(), server.weight))
        .collect();
    assert_eq!(servers, [("172.17.100.1".to_owned(), 3), ("172.17.100.4".to_owned(), 2)]);
    assert!(saved.contains("# added at run time"), "{saved}");

    done(&world.shunt(&format!("server remove {SERVICE} 172.17.100.4 --expire")));
    assert_eq!(world.server(4).unwrap().state, "expired");
}

#[test]
fn a_server_is_added_with_its_mac_address_and_saved_with_it() {
    let world = World::new();
    let second = "[[virtual_service]]\naddress = \"172.17.100.100:81\"\nprotocol = \"tcp\"\n";
    world.reload(&format!("{CONFIG}{second}"));
    done(&world.shunt(&format!("server add {SERVICE} 172.17.100.4 --mac 02-00-00-00-00-AB")));
    let add_again = "server add tcp:172.17.100.100:81 172.17.100.4";
    failed(&world.shunt(&format!("{add_again} --mac 02:00:00:00:00:01")), "02:00:00:00:00:ab");
    done(&world.shunt(add_again));
    world.on_link(4);
    assert_eq!(world.server(4).unwrap().mac.as_deref(), Some("02:00:00:00:00:ab"));
    assert_eq!(world.server(4).unwrap().neighbor, "reachable", "it is never asked for");
    let to = (0..8).filter_map(|number| world.send(0, &frames::tcp_of(number, "S")));
    assert!(to.collect::<Vec<u8>>().contains(&0xab));

    let saved = done(&world.shunt("save"));
    let config = Config::parse(&saved, &stock_only).unwrap();
    for service in &config.services {
        let added = service.servers.iter().find(|server| server.address == rs(4)).unwrap();
        assert_eq!(added.mac, Some([2, 0, 0, 0, 0, 0xab]), "{saved}");
    }
    // What is put back has what it had, unless it is told otherwise.
    done(&world.shunt("server remove tcp:172.17.100.100:81 172.17.100.4"));
    done(&world.shunt(&format!("server remove {SERVICE} 172.17.100.1")));
    done(&world.shunt(&format!("server add {SERVICE} 172.17.100.1 --mac 02:00:00:00:00:cd")));
    let mark = "[MAC address set at run time; the config has none]";
    assert!(done(&world.shunt("list")).contains(mark));
    // The file has the last word.
    let with_mac = "\"172.17.100.1\"\nmac = \"02:00:00:00:00:ef\"";
    world.reload(&CONFIG.replacen("\"172.17.100.1\"", with_mac, 1));
    assert_eq!(world.server(1).unwrap().mac.as_deref(), Some("02:00:00:00:00:ef"));
    assert!(!done(&world.shunt("list")).contains(mark));
}

#[test]
fn ipv6_services_are_named_with_brackets() {
    let config = CONFIG.to_owned()
        + "[[virtual_service]]\naddress = \"[fd00:2::100]:53\"\nprotocol = \"udp\"\n\
           [[virtual_service.real_server]]\naddress = \"fd00:2::1\"\n";
    let world = World::with(&config);
    done(&world.shunt("server set udp:[fd00:2::100]:53 fd00:2::1 --weight 9"));
    let text = done(&world.shunt("list"));
    assert!(text.contains("UDP  [fd00:2::100]:53 rr"), "{text}");
    assert!(text.contains("  -> [fd00:2::1]:53               Route   9 "), "{text}");
}

#[test]
fn failures_are_one_sentence_and_exit_code_1() {
    let world = World::new();
    failed(&world.shunt("server set tcp:10.0.0.1:80 172.17.100.1 --weight 1"), SERVICE);
    failed(&world.shunt(&format!("server add {SERVICE} 172.17.100.1")), "shunt server set");
    failed(&world.shunt(&format!("service set {SERVICE} --scheduler x")), "there are rr, wrr, lc");
    failed(&run(&["list", "--api", "/no/such.sock"]), "no shunt answers at /no/such.sock");
    failed(&run(&["check", "--config", "/no/such.toml"]), "cannot read /no/such.toml");
    failed(&run(&["run", "--config", "/no/such.toml"]), "cannot read /no/such.toml");
}

#[test]
fn an_upload_that_cannot_be_sent_names_the_file_and_what_it_should_be() {
    let world = World::new();
    let file = |name: &str, content: &str| {
        std::fs::write(world.folder.join(name), content).unwrap();
        world.folder.join(name).display().to_string()
    };
    let empty = file("empty.wasm", "");
    failed(&world.shunt(&format!("plugin upload {empty}")), "empty.wasm is empty: name the plugin");
    failed(&world.shunt("plugin upload /no/my.wasm"), "cannot read /no/my.wasm (No such file");
    failed(&world.shunt("plugin upload /tmp"), "cannot read /tmp (Is a directory");
    failed(&world.shunt("plugin upload /dev/zero --name my"), "/dev/zero has more than 67108864");
    let upper = file("My.wasm", "(module)");
    failed(&world.shunt(&format!("plugin upload {upper}")), "with --name");
    let good = file("my.wasm", "(module)");
    let unsigned = format!("plugin upload {good} --signature /no/my.minisig");
    failed(&world.shunt(&unsigned), "cannot read /no/my.minisig");
    let beside = file("my.wasm.minisig", "");
    failed(&world.shunt(&format!("plugin upload {good}")), &format!("{beside} is empty"));
    std::fs::remove_file(beside).unwrap();
    for words in ["plugin list", "plugin show my", "plugin rollback my", "plugin remove my@2"] {
        let words: Vec<&str> = words.split(' ').chain(["--api", "/no/such.sock"]).collect();
        failed(&run(&words), "no shunt answers at /no/such.sock");
    }
    let words = ["plugin", "upload", &good, "--api", "/no/such.sock"];
    failed(&run(&words), "no shunt answers at /no/such.sock");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    assert_eq!(run(&["list", "--nonsense"]).status.code(), Some(2));
    assert_eq!(run(&[]).status.code(), Some(2));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["--version"]).status.code(), Some(0));
}

#[test]
fn check_says_ok_or_everything_that_is_wrong() {
    let world = World::new();
    let good = world.folder.join("director.toml");
    let good = good.to_str().unwrap();
    assert_eq!(done(&run(&["check", "--config", good])), format!("{good}: ok\n"));
    let bad = world.folder.join("bad.toml");
    let text = std::fs::read_to_string(good).unwrap();
    std::fs::write(&bad, text.replace("\"rr\"", "\"x\"").replace("2000", "1")).unwrap();
    let bad = bad.to_str().unwrap();
    let output = run(&["check", "--config", bad]);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    let lines: Vec<&str> = message.lines().collect();
    assert_eq!(lines.len(), 2, "{message}");
    assert!(lines[0].starts_with(&format!("shunt: {bad}:2:9: flows is 1")), "{message}");
    assert!(lines[1].starts_with(&format!("shunt: {bad}:9:13: there is no plugin")), "{message}");
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let text = done(&run(&["completions", shell]));
        assert!(text.contains("completions") && text.contains("server"), "{shell}");
    }
    assert!(done(&run(&["man"])).contains(".TH shunt 1"));
    let world = World::new();
    let folder = world.folder.join("man");
    done(&run(&["man", "--out", folder.to_str().unwrap()]));
    for page in ["shunt.1", "shunt-run.1", "shunt-list.1", "shunt-server-remove.1"] {
        assert!(folder.join(page).exists(), "{page}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let world = World::new();
    for number in 0..1_500 {
        world.send(0, &frames::tcp_of(number, "S"));
    }
    let command = format!(
        "{} list --flows --api {} | head -n 1; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_shunt"),
        world.socket.display()
    );
    let output = Command::new("bash").args(["-c", &command]).output().unwrap();
    assert_eq!(done(&output), "IPVS connection entries\n");
    assert_eq!(stderr(&output), "");
}
