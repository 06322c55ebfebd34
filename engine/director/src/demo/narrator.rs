//! What the demo prints: plain text, in colour only on a terminal.

use lab::{Family, Topology};
use std::cell::Cell;
use std::io::{IsTerminal, Write, stdout};

/// Columns of a full bar.
const BAR: usize = 30;

/// Said when a signal ends the demo, whether or not anybody still listens.
pub(super) fn last_words(text: &str) {
    let _ = writeln!(stdout(), "\n{text}");
}

/// Says what is being done as it is done.
pub(super) struct Narrator {
    colour: bool,
    steps: Cell<u32>,
}

impl Narrator {
    pub(super) fn on_stdout() -> Narrator {
        // https://no-color.org
        let colour = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Narrator { colour, steps: Cell::new(0) }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Nothing is said any more once a signal is ending the demo. A reader that has gone away
    /// (`shunt demo | head`) is no reason to stop checking.
    fn print(&self, text: &str) {
        lab::sleep_if_interrupted();
        let mut out = stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }

    /// A line of its own standing.
    pub(super) fn title(&self, text: &str) {
        self.print(&format!("\n{}", self.paint("1", text)));
    }

    /// What comes next, numbered.
    pub(super) fn step(&self, text: &str) {
        self.steps.set(self.steps.get() + 1);
        let text = format!("{}. {text}", self.steps.get());
        self.print(&format!("\n{}", self.paint("1;36", &text)));
    }

    /// A remark.
    pub(super) fn line(&self, text: &str) {
        let indented: Vec<String> =
            text.lines().map(|line| format!("   {line}").trim_end().to_owned()).collect();
        self.print(&indented.join("\n"));
    }

    /// A command, as one would type it.
    pub(super) fn command(&self, line: &str) {
        self.print(&format!("   {} {}", self.paint("2", "$"), self.paint("1", line)));
    }

    /// A command, as one would type it on this machine.
    pub(super) fn command_on(&self, machine: &str, line: &str) {
        self.print(&format!(
            "   {} {}",
            self.paint("2", &format!("{machine}$")),
            self.paint("1", line)
        ));
    }

    /// What a command or an endpoint answered.
    pub(super) fn quote(&self, text: &str) {
        self.line(text.trim_end());
    }

    /// Something that was checked and holds.
    pub(super) fn done(&self, text: &str) {
        self.print(&format!("   {} {text}", self.paint("32", "ok")));
    }

    /// One real server's share.
    pub(super) fn share(&self, real_server: &str, count: usize, total: usize) {
        let bar = "#".repeat(if total == 0 { 0 } else { (count * BAR).div_ceil(total) });
        let percent = if total == 0 { 0.0 } else { count as f32 * 100.0 / total as f32 };
        let text = format!("{real_server:<16}{count:>6}{percent:>7.0} %  ");
        self.print(&format!("   {text}{}", self.paint("36", &bar)));
    }

    /// The network, with its names.
    pub(super) fn picture(&self, topology: &Topology) {
        let vip = lab::vip(Family::V4);
        let prefix = topology.client.name().trim_end_matches("client").to_owned();
        let wire = format!("client {} --- router --- switch ", lab::client_address(Family::V4));
        let hosts = [
            format!("director {}, VIP {vip}", lab::director_address(Family::V4)),
            format!("rs1 {}, VIP on lo", lab::real_server_address(1, Family::V4)),
            format!("rs2 {}, VIP on lo", lab::real_server_address(2, Family::V4)),
        ];
        self.line(&format!("{wire}--+-- {}", hosts[0]));
        for host in &hosts[1..] {
            self.line(&format!("{:width$}  +-- {host}", "", width = wire.len()));
        }
        self.line("The real servers answer the client by way of the router; the director sees requests only.");
        self.line(&format!("Namespaces: {prefix}{{client,router,director,switch,rs1,rs2}}"));
    }
}
