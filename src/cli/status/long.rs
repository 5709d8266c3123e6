//! Everything that is known about one node, for a person.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::table::Age;
use crate::{
    cli::desk::{Desk, Row},
    policy::{
        annotation::{
            BOOT_ID, FENCED_AT, FENCED_BY, METHOD, OVERRIDDEN, OVERRIDDEN_BY, PLACED_AT, PLACED_BY, PROOF, RECORDED_AT,
            RECORDED_BY, SOURCE,
        },
        blocker::BlockingPod,
        evidence::Method,
        object::{node::Node, pod::Pod},
        reason::Code,
        standing::{Next, Note, State},
        text::{Foreign, Span, quoted},
    },
};

/// The page about a node.
pub fn page(row: &Row, desk: &Desk) -> String {
    let Row { listed, facts, standing, .. } = row;
    let node = &listed.node;
    let now = facts.api_now();
    let mut page = String::new();
    let mut line = |label: &str, text: String| {
        let label = if label.is_empty() { String::new() } else { format!("{label}:") };
        // Nothing can fail: it is written to memory.
        let _ = writeln!(page, "{}", format!("{label:<11}{text}").trim_end());
    };
    line("Node", machine(node));
    line("State", format!("{}{}", standing.state, out_for(row, now)));
    let since = node.status.conditions.first().and_then(|ready| ready.last_transition_time);
    line(
        "Ready",
        format!("{}{}", Foreign::from(node.ready_status()), since.map_or(String::new(), |at| ago(" since ", at, now))),
    );
    line("Lease", lease(row));
    for (index, text) in record(node).into_iter().enumerate() {
        line(if index == 0 { "Record" } else { "" }, text);
    }
    if let Some(boot) = node.boot_id() {
        let told = match standing.is_in_recorded_boot {
            Some(true) => " (the one that was fenced)",
            Some(false) => " (another one than was fenced)",
            None => "",
        };
        line("Boot", format!("{}{told}", Foreign::from(boot)));
    }
    for note in &standing.notes {
        line("Note", noted(*note, row));
    }
    if let Some(since) = row.controllers_silent_since {
        line(
            "Note",
            format!("kube-controller-manager has been silent{}: nothing empties the node", ago(" since ", since, now)),
        );
    }
    for (fact, why) in &standing.unread {
        line("Unread", format!("{}: {why}", fact.name()));
    }
    let holds = if node.is_out_of_service() { "Holds it" } else { "On it" };
    let pods = standing.pods.iter().map(|pod| format!("Pod      {pod}{}", owner(pod, row)));
    let volumes = standing.volumes.iter().map(|volume| format!("Volume   {volume}"));
    for (index, held) in pods.chain(volumes).enumerate() {
        line(if index == 0 { holds } else { "" }, held);
    }
    line("Next", next(standing.next, standing.state).to_owned());
    if let Some(alarm) = alarm(row) {
        line("", alarm.to_owned());
    }
    let typed = match standing.next {
        Next::Fence => super::super::to_attest(row.name(), node.has_record()),
        Next::Place => super::super::typed(&["place", row.name(), "--wait"]),
        Next::Release => super::super::typed(&["release", row.name(), "--wait"]),
        _ => None,
    };
    if let Some(typed) = typed {
        line("", format!("  {typed}"));
    }
    // The gate's own advice is about kubectl: of a step that has a command here, only the reasons.
    let has_command = matches!(standing.next, Next::Fence | Next::Place | Next::Release);
    let is_reason = |line: &&str| !has_command || Code::ALL.iter().any(|code| line.starts_with(&format!("  {code}: ")));
    let said = super::said(row, desk);
    let (first, rest) = said.as_deref().and_then(|said| said.split_once('\n')).unzip();
    for (index, said) in first.into_iter().chain(rest.unwrap_or_default().lines().filter(is_reason)).enumerate() {
        line(if index == 0 { "The gate" } else { "" }, said.to_owned());
    }
    page
}

/// What it means that a machine that was said to be off runs on in the boot that was fenced.
fn alarm(row: &Row) -> Option<&'static str> {
    let was_said_to_be_off =
        row.listed.node.annotation(METHOD).and_then(Method::parse).is_some_and(Method::stops_the_machine);
    (row.standing.state == State::SameBoot && was_said_to_be_off).then_some(
        "it was not off: two machines may have written to the same volumes. Stop what was started in its place, and wake \
         whoever owns the data. Only where nodes are containers does it mean nothing: they have their host's boot",
    )
}

/// Says so to whoever acts on the node, on standard error. `false`: there is nothing to say.
pub fn raise_alarm(row: &Row) -> bool {
    let alarm = alarm(row);
    if let Some(alarm) = alarm {
        eprintln!("{} runs the boot that was fenced: {alarm}", row.name());
    }
    alarm.is_some()
}

/// Which controller made a pod: it makes the replacement.
fn owner(pod: &BlockingPod, row: &Row) -> String {
    let pods = row.facts.pods.value().into_iter().flatten();
    let owner = pods.into_iter().find(|one| pod.name.raw() == one.full_name()).and_then(Pod::controller);
    owner.map_or(String::new(), |owner| {
        format!(", of {} {}", Foreign::from(owner.kind.as_str()), Foreign::from(owner.name.as_str()))
    })
}

/// The machine behind a node: its name, its addresses, and its provider's ID.
pub fn machine(node: &Node) -> String {
    let addresses = node.status.addresses.iter().map(|address| Foreign::from(address.address.as_str()).to_string());
    let provider = Some(node.spec.provider_id.as_str()).filter(|id| !id.is_empty());
    let provider = provider.map(|id| format!("providerID {}", Foreign::from(id)));
    let name = Foreign::from(node.metadata.name.as_str()).to_string();
    std::iter::once(name).chain(addresses).chain(provider).collect::<Vec<_>>().join("   ")
}

fn out_for(row: &Row, now: Timestamp) -> String {
    match row.out_since() {
        Some(since) => format!("   out of service for {} (since {})", Age(now.duration_since(since)), clock(since)),
        None if row.listed.node.is_out_of_service() => "   out of service, nobody recorded since when".to_owned(),
        None => String::new(),
    }
}

fn lease(row: &Row) -> String {
    let Row { facts, standing, .. } = row;
    match (facts.lease.value(), standing.sign_of_life) {
        (Err(why), _) => format!("could not be read: {why}"),
        (Ok(_), None) => "says nothing about the last renewal".to_owned(),
        (Ok(answer), Some(sign)) => {
            let ran_out = if standing.is_heard == Some(true) { "" } else { ", ran out" };
            format!("the node {}{}{ran_out}", sign.did(), ago(" at ", sign.at, answer.date))
        }
    }
}

/// What is on record, one line for each part of it.
pub fn record(node: &Node) -> Vec<String> {
    let value = |key: &str| node.annotation(key).map(|value| Foreign::from(value).to_string());
    let part = |text: &str, key: &str| value(key).map(|value| format!("{text}{value}"));
    let joined = |parts: Vec<Option<String>>, separator: &str| {
        Some(parts.into_iter().flatten().collect::<Vec<_>>().join(separator)).filter(|text| !text.is_empty())
    };
    let who = |what: &str, by: &str, at: &str| joined(vec![part(what, by), part("at ", at)], " ");
    let fence = joined(vec![value(METHOD), part("at ", FENCED_AT), part("by ", FENCED_BY)], " ");
    let proof = part("proof ", PROOF);
    let stamps = vec![
        who("recorded by ", RECORDED_BY, RECORDED_AT),
        who("placed by ", PLACED_BY, PLACED_AT),
        part("vouched by ", SOURCE),
    ];
    let overridden = node.annotation(OVERRIDDEN).map(|why| {
        let by = node.annotation(OVERRIDDEN_BY).unwrap_or_default();
        format!("overridden by {}: {}", Foreign::from(by), quoted(why))
    });
    let boot = part("of boot ", BOOT_ID);
    let fence = joined(vec![fence, boot], " ");
    [fence, proof, joined(stamps, ", "), overridden].into_iter().flatten().collect()
}

fn noted(note: Note, row: &Row) -> String {
    let stored = &row.listed.node;
    match note {
        Note::Unrecorded => "unrecorded: the taint is from before the gate, or was placed past it".to_owned(),
        Note::Overridden => "overridden: a break-glass overruled the gate in this outage".to_owned(),
        Note::Forgotten => "forgotten: the node is back, and the taint is still on".to_owned(),
        Note::StaleEvidence => "stale-evidence: the record of an earlier outage was left behind".to_owned(),
        Note::SameMachine => {
            let by = stored.annotation(FENCED_BY).unwrap_or("somebody");
            let fenced = stored.annotation(FENCED_AT).unwrap_or_default();
            let heard = row
                .standing
                .sign_of_life
                .map_or(String::new(), |sign| format!("; the node {} at {}", sign.did(), clock(sign.at)));
            format!(
                "{}: {} said that {} was fenced at {}{heard}: was another machine switched off?",
                note.name(),
                Foreign::from(by),
                Foreign::from(stored.metadata.name.as_str()),
                Foreign::from(fenced)
            )
        }
    }
}

/// What comes next, in words.
pub(super) fn next(next: Next, state: State) -> &'static str {
    match (next, state) {
        (Next::Look, State::Unknown) => "look: what could not be read may decide",
        (Next::Look, State::Alive) => {
            "look: its machine lives, and every detach is unsafe. Power it off, or find out why its pods stay"
        }
        (Next::Look, State::NotReady) => {
            "look again in a minute: its kubelet was heard a moment ago. If it still is, log in and repair it; the taint \
             is not for this"
        }
        (Next::Look, State::Contradicted) => "look: the gate would not let it be put out of service",
        (Next::Look, _) => "look: what holds it does not go by itself",
        (Next::Wait, _) => "wait: pods and volumes leave it",
        (Next::Reboot, _) => "reboot: it runs the boot that was fenced",
        (Next::Release, _) => "release: nothing is left, and it is back",
        (Next::Repair, _) => "repair it, or delete the Node: nothing is left on it",
        (Next::Fence, _) => "fence: make sure that this machine is off, then record that",
        (Next::Place, _) => "place: the fence is recorded, and nothing speaks against it",
        (Next::Nothing, _) => "nothing",
    }
}

fn ago(before: &str, at: Timestamp, now: Timestamp) -> String {
    format!("{before}{} ({} ago)", clock(at), Span(now.duration_since(at)))
}

/// The time of day, and the date only in JSON: whoever reads this is in the outage.
fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%SZ").to_string()
}
