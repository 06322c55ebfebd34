//! docs/first-service.md, typed: three machines as they come, and each command of the page in its
//! order, with what the page says that it shows. Needs curl and python3, so it runs with the
//! feature `ci`.

mod common;

use common::page::{Typed, commands};
use common::{PATIENCE, shunt};
use lab::{Family, MachineLock, Netns, OwnFiles, Plan, Process, Topology, vip, wait_until};
use std::process::Command;
use std::time::Duration;

const MACHINES: [&str; 4] = ["director", "rs1", "rs2", "client"];
/// How long what takes "some seconds" may take here.
const SOON: Duration = Duration::from_secs(15);

/// The machines of the page, and what runs on them.
struct Machines {
    running: Vec<(String, Process)>,
    files: Vec<OwnFiles>,
    topology: Topology,
    _lock: MachineLock,
}

impl Machines {
    fn as_they_come() -> Machines {
        let lock = MachineLock::acquire().unwrap();
        let topology = Plan::new("first").bare().build().unwrap();
        let files = MACHINES.map(|name| OwnFiles::create(&format!("first-{name}")).unwrap());
        Machines { running: vec![], files: files.into(), topology, _lock: lock }
    }

    fn netns(&self, machine: &str) -> &Netns {
        match machine {
            "director" => &self.topology.director,
            "client" => &self.topology.client,
            "rs1" => self.topology.real_server(1),
            _ => self.topology.real_server(2),
        }
    }

    /// A shell on the machine, with shunt installed.
    fn shell(&self, machine: &str, command: &str) -> Command {
        let place = MACHINES.iter().position(|name| *name == machine).unwrap();
        let mut shell = self.files[place].command(self.netns(machine), "sh");
        let folder = shunt().parent().unwrap().display();
        let path = std::env::var("PATH").unwrap();
        shell.args(["-c", command]).env("PATH", format!("{folder}:{path}"));
        shell
    }

    fn type_in(&mut self, typed: &Typed) {
        if let Some(command) = typed.command.strip_suffix(" &") {
            let process =
                Process::start(self.shell(&typed.machine, &format!("exec {command}"))).unwrap();
            let shown = || typed.shows(&process.output());
            if let Err(error) = process.wait_until(PATIENCE, "it writes what the page shows", shown)
            {
                panic!("line {}: `{command}`: {error}\n{}", typed.line, process.output());
            }
            self.running.push((typed.command.clone(), process));
            return;
        }
        let mut last = String::new();
        let as_shown = || {
            let (exit, written) = self.run(typed);
            last = format!("exit status {exit:?}\n{written}");
            exit == Some(typed.exit) && typed.shows(&written)
        };
        let patience = if typed.soon { SOON } else { Duration::ZERO };
        if wait_until(patience, "the page is right", as_shown).is_err() {
            let Typed { line, machine, command, shown, exit, .. } = typed;
            let shown = shown.join("\n");
            let running: String = self
                .running
                .iter()
                .map(|(name, process)| format!("{name}\n{}", process.output()))
                .collect();
            panic!(
                "line {line}: `{command}` on {machine}: exit status {exit} expected with\n{shown}\n\
                 it was {last}\n{running}"
            );
        }
    }

    fn run(&self, typed: &Typed) -> (Option<i32>, String) {
        let output = self.shell(&typed.machine, &typed.command).output().unwrap();
        let written = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(written).unwrap())
    }
}

#[test]
fn each_command_of_the_page_does_what_the_page_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/first-service.md");
    let page = commands(&std::fs::read_to_string(path).unwrap(), &MACHINES);
    assert!(page.len() > 15, "{page:#?}");
    for machine in MACHINES {
        assert!(page.iter().any(|typed| typed.machine == machine), "nothing is typed on {machine}");
    }
    let mut machines = Machines::as_they_come();
    for typed in &page {
        machines.type_in(typed);
    }
    // What the page undoes at its end is undone.
    for rs in ["rs1", "rs2"] {
        let addresses = machines.netns(rs).ip("address show").unwrap();
        assert!(!addresses.contains(&vip(Family::V4).to_string()), "{addresses}");
    }
}

const PAGE: &str = "\
Text with `rs1# no command`.
```console
rs1# cat > a <<'END'
# rs1# not a command
END
rs1# cat a
first 12
...
last  3 s
```
```toml
rs1# = 1
```
```console exit=1 soon
client$ false
```
";

#[test]
fn commands_are_found_with_what_they_show() {
    let found = commands(PAGE, &["rs1", "client"]);
    let commands: Vec<&str> = found.iter().map(|typed| typed.command.as_str()).collect();
    assert_eq!(commands, ["cat > a <<'END'\n# rs1# not a command\nEND", "cat a", "false"]);
    assert_eq!(found[1].shown, ["first 12", "...", "last  3 s"]);
    assert_eq!((found[1].exit, found[1].soon, found[1].line), (0, false, 6));
    assert_eq!((found[2].exit, found[2].soon, found[2].machine.as_str()), (1, true, "client"));
}

#[test]
fn numbers_and_columns_may_differ_and_nothing_else() {
    let typed = &commands(PAGE, &["rs1", "client"])[1];
    assert!(typed.shows("first 7\nlast 44 s\n"));
    assert!(typed.shows("first 7\nx\ny\nlast 4 s"));
    for other in
        ["", "first 7\n", "x\nfirst 7\nlast 4 s", "first 7\nlast 4 m", "first 7\nlast 4 s\nx"]
    {
        assert!(!typed.shows(other), "{other}");
    }
}
