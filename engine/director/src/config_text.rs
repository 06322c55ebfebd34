//! Writes a config file that says what is in force: what `shunt save` prints.

use crate::config::{
    BusyPollConfig, Config, DuplicateVip, InterfaceConfig, METRICS_OFF, Mode, Poll, Queues,
};
use crate::config_api::{ApiConfig, ApiListen, TlsFiles};
use crate::config_health::write_health_check;
use crate::config_plugins::PluginsConfig;
use crate::config_policy::slow_start_problems;
use crate::health::Policy;
use crate::mac::mac_text;
use crate::service_name::protocol_name;
use crate::services::{ServerEntry, ServiceEntry, Services};
use crate::views::{server_mark, service_mark};
use dataplane::{ServerState, UnknownFlow};
use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

/// The config in force: the file's settings with the services as they are now. What differs from
/// the file is marked by a comment.
pub fn write(config: &Config, services: &Services) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_settings(&mut text, config);
    let _ = write_services(&mut text, config, services);
    text
}

fn write_settings(text: &mut String, config: &Config) -> fmt::Result {
    let poll = match config.poll {
        Poll::Adaptive => "adaptive",
        Poll::Busy => "busy",
    };
    let unknown_flow = match config.settings.unknown_flow {
        UnknownFlow::Reset => "reset",
        UnknownFlow::Drop => "drop",
        UnknownFlow::Schedule => "schedule",
    };
    writeln!(text, "poll = \"{poll}\"")?;
    writeln!(text, "flows = {}", config.capacity.flows_v4)?;
    writeln!(text, "flows_v6 = {}", config.capacity.flows_v6)?;
    writeln!(text, "unknown_flow = \"{unknown_flow}\"")?;
    writeln!(text, "state_dir = {}", quoted(&config.state_dir.to_string_lossy()))?;
    let duplicate_vip = match config.duplicate_vip {
        DuplicateVip::Refuse => "refuse",
        DuplicateVip::Take => "take",
    };
    writeln!(text, "manage_vip = {}\nduplicate_vip = \"{duplicate_vip}\"", config.manage_vip)?;
    let timeouts = config.settings.timeouts;
    writeln!(text, "\n[timeouts]\ntcp = {}", timeouts.established)?;
    writeln!(text, "tcpfin = {}\nudp = {}", timeouts.fin_wait, timeouts.udp)?;
    for interface in &config.interfaces {
        write_interface(text, interface)?;
    }
    write_api(text, &config.api)?;
    let listen = config.metrics_listen.map_or(METRICS_OFF.to_owned(), |listen| listen.to_string());
    writeln!(text, "\n[metrics]\nlisten = \"{listen}\"")?;
    write_plugins(text, &config.plugins)
}

fn write_plugins(text: &mut String, plugins: &PluginsConfig) -> fmt::Result {
    let PluginsConfig { limits, instances, failures, window, keep, signature_keys } = plugins;
    writeln!(text, "\n[plugins]")?;
    for (key, value) in [
        ("file_size", limits.file_size as u64),
        ("memory", limits.memory as u64),
        ("tables", limits.table_elements as u64),
        ("stack", limits.stack as u64),
        ("fuel", limits.schedule_fuel),
        ("update_fuel", limits.update_fuel),
        ("init_fuel", limits.init_fuel),
        ("state", limits.state as u64),
        ("compile_time", limits.compile_time.as_secs()),
        ("instances", *instances as u64),
        ("failures", (*failures).into()),
        ("window", window.as_secs()),
        ("keep", *keep as u64),
    ] {
        writeln!(text, "{key} = {value}")?;
    }
    let keys: Vec<String> = signature_keys.iter().map(|key| quoted(key)).collect();
    writeln!(text, "signature_keys = [{}]", keys.join(", "))
}

fn write_api(text: &mut String, api: &ApiConfig) -> fmt::Result {
    let path = |path: &Path| quoted(&path.to_string_lossy());
    writeln!(text, "\n[api]\nsocket = {}", path(&api.socket))?;
    if let Some(group) = &api.group {
        writeln!(text, "group = {}", quoted(&group.name))?;
    }
    let Some(ApiListen { address, token_file, tls }) = &api.listen else { return Ok(()) };
    writeln!(text, "listen = \"{address}\"\ntoken_file = {}", path(token_file))?;
    if let Some(TlsFiles { certificate, key }) = tls {
        writeln!(text, "certificate = {}\nkey = {}", path(certificate), path(key))?;
    }
    Ok(())
}

fn write_interface(text: &mut String, interface: &InterfaceConfig) -> fmt::Result {
    let mode = match interface.mode {
        Mode::Auto => "auto",
        Mode::ZeroCopy => "zero-copy",
        Mode::Copy => "copy",
    };
    writeln!(text, "\n[[interface]]\nname = {}", quoted(&interface.name))?;
    writeln!(text, "mode = \"{mode}\"")?;
    match &interface.queues {
        Queues::All => writeln!(text, "queues = \"all\"")?,
        Queues::List(queues) => writeln!(text, "queues = {queues:?}")?,
    }
    if let Some(cores) = &interface.cores {
        writeln!(text, "cores = {cores:?}")?;
    }
    if let Some(BusyPollConfig { budget, wait, defer_hard_irqs, gro_flush_timeout }) =
        interface.busy_poll
    {
        writeln!(text, "[interface.busy_poll]\nbudget = {budget}\nwait = {wait}")?;
        writeln!(text, "defer_hard_irqs = {defer_hard_irqs}")?;
        writeln!(text, "gro_flush_timeout = {gro_flush_timeout}")?;
    }
    Ok(())
}

fn write_services(text: &mut String, config: &Config, services: &Services) -> fmt::Result {
    let mut entries: Vec<_> = services.services().map(|(_, entry)| entry).collect();
    entries.sort_by_key(|entry| entry.key);
    for entry in entries.into_iter().filter(|entry| !entry.removed) {
        let address = SocketAddr::new(entry.key.address, entry.key.port);
        writeln!(text, "\n[[virtual_service]]{}", comment(service_mark(config, entry)))?;
        writeln!(text, "address = \"{address}\"")?;
        writeln!(text, "protocol = \"{}\"", protocol_name(entry.key.protocol))?;
        writeln!(text, "scheduler = \"{}\"", entry.scheduler)?;
        let mut servers: Vec<_> = services.members(entry).map(|(_, server)| server).collect();
        servers.sort_by_key(|server| server.address);
        servers.retain(|server| server.state == ServerState::Serving && !server.sorry);
        write_policy(text, entry, &servers)?;
        if !entry.params.is_empty() {
            writeln!(text, "[virtual_service.scheduler_params]")?;
        }
        for (key, value) in &entry.params {
            writeln!(text, "{key} = {}", quoted(value))?;
        }
        if let Some(check) = &entry.policy.check {
            write_health_check(text, check)?;
        }
        for server in servers {
            let mark = comment(server_mark(config, services, entry, server));
            writeln!(text, "[[virtual_service.real_server]]{mark}")?;
            writeln!(text, "address = \"{}\"\nweight = {}", server.address, server.weight)?;
            if let Some(mac) = services.macs().get(&server.address) {
                writeln!(text, "mac = \"{}\"", mac_text(*mac))?;
            }
        }
    }
    Ok(())
}

fn write_policy(text: &mut String, entry: &ServiceEntry, servers: &[&ServerEntry]) -> fmt::Result {
    let Policy { check: _, quorum, hysteresis, sorry_server, slow_start } = &entry.policy;
    writeln!(text, "quorum = {quorum}\nhysteresis = {hysteresis}")?;
    if let Some(address) = sorry_server {
        writeln!(text, "sorry_server = \"{address}\"")?;
    }
    let weights = servers.iter().map(|server| (server.address, server.weight));
    // What was changed at run time must not keep the next start from reading it.
    let problem = slow_start_problems(&entry.scheduler, weights).into_iter().next();
    match problem.filter(|_| *slow_start > 0) {
        Some(problem) => writeln!(text, "slow_start = 0  # the config has {slow_start}; {problem}"),
        None => writeln!(text, "slow_start = {slow_start}"),
    }
}

fn comment(mark: Option<String>) -> String {
    mark.map_or_else(String::new, |mark| format!("  # {mark}"))
}

/// A TOML basic string (<https://toml.io/en/v1.0.0#string>).
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reload;
    use crate::scheduler_name::{Params, SchedulerName, check_params, stock_only};
    use crate::services::Removal;
    use proptest::prelude::*;

    const TEXT: &str = r#"
poll = "busy"
flows = 5000
unknown_flow = "schedule"
state_dir = '/var/a "quoted\ path'
timeouts = { tcp = 7 }
manage_vip = false
duplicate_vip = "take"
metrics = { listen = "off" }
[plugins]
memory = 2000000
signature_keys = [
    "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3",
]
[api]
socket = '/tmp/a "quoted\ path'
group = "root"
listen = "[::]:9465"
token_file = "/etc/shunt/token"
certificate = "/etc/shunt/certificate.pem"
key = "/etc/shunt/key.pem"
[[interface]]
name = "eth0"
cores = [1]
queues = [0]
busy_poll = { budget = 9 }
[[interface]]
name = "eth1"
[[virtual_service]]
address = "172.17.100.100:80"
protocol = "tcp"
scheduler = "wrr"
quorum = 2
hysteresis = 1
sorry_server = "172.17.100.9"
[virtual_service.scheduler_params]
mh-port = true
size = 5
_text = 'a "quoted\ text'
share = 1.0
[virtual_service.health_check]
kind = "http"
interval = 0.5
fall = 4
on_failure = "expire"
body = '^"ok\b'
[[virtual_service.real_server]]
address = "172.17.100.1"
weight = 3
mac = "02:00:5e:10:00:01"
[[virtual_service.real_server]]
address = "172.17.100.2"
[[virtual_service]]
address = "[2001:db8::100]:53"
protocol = "udp"
"#;

    fn in_force(config: &Config) -> Services {
        let mut services = Services::default();
        reload::apply(&mut services, &reload::differences(&[], &config.services)).unwrap();
        services
    }

    #[test]
    fn what_is_written_reads_the_same() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/director.toml");
        let example = std::fs::read_to_string(example).unwrap();
        for text in [TEXT, &example] {
            let config = Config::parse(text, &stock_only).unwrap();
            let written = write(&config, &in_force(&config));
            assert_eq!(Config::parse(&written, &stock_only), Ok(config), "{written}");
            assert!(!written.contains('#'), "{written}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn names_and_parameters_set_at_run_time_read_the_same(
            scheduler in "[a-z0-9][a-z0-9_-]{0,31}(@[1-9][0-9]{0,8})?",
            params in prop::collection::btree_map("[A-Za-z0-9_-]{1,64}", "\\PC{0,60}", 0..6),
        ) {
            prop_assert_eq!(check_params(&params), Ok(()));
            let config = Config::parse(TEXT, &stock_only).unwrap();
            let mut services = in_force(&config);
            let (key, scheduler): (_, SchedulerName) =
                (config.services[0].key, scheduler.parse().unwrap());
            services.set_scheduler(&key, scheduler.clone(), Some(params.clone())).unwrap();
            let written = write(&config, &services);
            let saved = Config::parse(&written, &|_, _| Ok(())).unwrap();
            let service = saved.services.iter().find(|service| service.key == key).unwrap();
            prop_assert_eq!((&service.scheduler, &service.params), (&scheduler, &params));
            prop_assert_eq!(&service.servers, &config.services[0].servers);
        }
    }

    #[test]
    fn parameters_set_at_run_time_are_marked() {
        let config = Config::parse(TEXT, &stock_only).unwrap();
        let mut services = in_force(&config);
        let [first, second] = [0, 1].map(|service: usize| config.services[service].key);
        let params = Params::from([("mh-port".to_owned(), "true".to_owned())]);
        services.set_params(&first, Params::new()).unwrap();
        services.set_params(&second, params).unwrap();
        let written = write(&config, &services);
        for mark in [
            "[[virtual_service]]  # parameters set at run time; the config has \
             _text=a \"quoted\\ text,mh-port,share=1.0,size=5\n",
            "[[virtual_service]]  # parameters set at run time; the config has none\n",
            "slow_start = 0\n[virtual_service.scheduler_params]\nmh-port = \"true\"\n",
        ] {
            assert!(written.contains(mark), "{written}");
        }
        assert_eq!(written.matches("scheduler_params").count(), 1, "{written}");
    }

    #[test]
    fn a_slow_start_that_run_time_has_made_impossible_keeps_no_start_from_reading() {
        let text = TEXT
            .replacen("quorum = 2", "quorum = 2\nslow_start = 30", 1)
            .replacen("weight = 3", "weight = 30", 1)
            .replacen("address = \"172.17.100.2\"", "address = \"172.17.100.2\"\nweight = 10", 1);
        let config = Config::parse(&text, &stock_only).unwrap();
        let key = config.services[0].key;
        let slow_start = |change: &dyn Fn(&mut Services)| {
            let mut services = in_force(&config);
            change(&mut services);
            Config::parse(&write(&config, &services), &stock_only).unwrap().services[0]
                .policy
                .slow_start
        };
        assert_eq!(slow_start(&|_| {}), 30);
        let one = |services: &mut Services| {
            services.set_weight(&key, [172, 17, 100, 1].into(), 1).unwrap();
        };
        assert_eq!(slow_start(&one), 0);
        let rr = |services: &mut Services| {
            services.set_scheduler(&key, "rr".parse().unwrap(), None).unwrap();
        };
        assert_eq!(slow_start(&rr), 0);
    }

    #[test]
    fn changes_made_at_run_time_are_held_and_marked() {
        let config = Config::parse(TEXT, &stock_only).unwrap();
        let mut services = in_force(&config);
        let key = config.services[0].key;
        let rs = |host: u8| [172, 17, 100, host].into();
        services.set_scheduler(&key, "lc".parse().unwrap(), None).unwrap();
        services.set_weight(&key, rs(1), 9).unwrap();
        services.remove_server(&key, rs(2), Removal::Drain).unwrap();
        services.add_server(&key, rs(3), Some(4)).unwrap();
        let written = write(&config, &services);
        let saved = Config::parse(&written, &stock_only).unwrap();
        let service = saved.services.iter().find(|service| service.key == key).unwrap();
        assert_eq!(service.scheduler.to_string(), "lc");
        let weights: Vec<_> = service.servers.iter().map(|s| (s.address, s.weight)).collect();
        assert_eq!(weights, [(rs(1), 9), (rs(3), 4)]);
        for mark in [
            "[[virtual_service]]  # scheduler set at run time; the config has wrr",
            "[[virtual_service.real_server]]  # weight set at run time; the config has 3",
            "[[virtual_service.real_server]]  # added at run time",
        ] {
            assert!(written.contains(mark), "{written}");
        }
    }
}
