//! Where nodes stand, for programs. `docs/schema/status-v1.json` describes it.

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    cli::{
        connect::Source,
        desk::{Desk, Row},
    },
    policy::{
        annotation::{
            BOOT_ID, FENCED_AT, FENCED_BY, LAST_OUTAGE, METHOD, OVERRIDDEN, PLACED_AT, PLACED_BY, PROOF, RECORDED_AT,
            RECORDED_BY, SOURCE,
        },
        decision::{Decision, Finding},
        object::{node::Node, pod::Pod, volume::VolumeAttachment},
    },
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct List<'a> {
    api_version: &'static str,
    kind: &'static str,
    read_at: Timestamp,
    source: &'a Source,
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    node: &'a str,
    uid: Option<&'a str>,
    state: &'static str,
    since: Option<Timestamp>,
    notes: Vec<&'static str>,
    ready: Ready<'a>,
    lease: Option<Lease>,
    boot_id: Option<&'a str>,
    addresses: Vec<&'a str>,
    provider_id: Option<&'a str>,
    taints: Vec<Taint<'a>>,
    record: Record<'a>,
    remaining: Remaining<'a>,
    verdicts: Verdicts,
    next: Next,
    unread: Vec<Unread<'a>>,
    last_outage: Option<serde_json::Value>,
}

#[derive(Serialize)]
struct Ready<'a> {
    status: &'a str,
    since: Option<Timestamp>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Lease {
    renew_time: Option<Timestamp>,
    duration_seconds: i64,
    ran_out: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Taint<'a> {
    effect: &'a str,
    value: &'a str,
    time_added: Option<Timestamp>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    method: Option<&'a str>,
    fenced_at: Option<&'a str>,
    fenced_by: Option<&'a str>,
    proof: Option<&'a str>,
    boot_id: Option<&'a str>,
    recorded_by: Option<&'a str>,
    recorded_at: Option<&'a str>,
    placed_by: Option<&'a str>,
    placed_at: Option<&'a str>,
    source: Option<&'a str>,
    overridden: Option<&'a str>,
}

#[derive(Serialize)]
struct Remaining<'a> {
    pods: Vec<RemainingPod<'a>>,
    volumes: Vec<RemainingVolume<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RemainingPod<'a> {
    namespace: &'a str,
    name: &'a str,
    owner: Option<String>,
    deletion_timestamp: Option<&'a str>,
    finalizers: &'a [String],
    /// Whether it stays, because nothing makes it leave: it does not hold the taint.
    may_stay: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RemainingVolume<'a> {
    /// Absent for a volume that only the Node's status tells of.
    volume_attachment: Option<&'a str>,
    persistent_volume: Option<&'a str>,
    claim: Option<String>,
    attacher: Option<&'a str>,
    attached: bool,
    detach_error: Option<&'a str>,
    /// The name in `status.volumesAttached`, for a volume without a VolumeAttachment.
    in_status: Option<&'a str>,
}

#[derive(Serialize)]
struct Verdicts {
    place: Option<Verdict>,
    release: Option<Verdict>,
    delete: Option<Verdict>,
}

#[derive(Serialize)]
struct Verdict {
    allowed: bool,
    reasons: Vec<Reason>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Reason {
    code: &'static str,
    mode: &'static str,
    message: String,
}

#[derive(Serialize)]
struct Next {
    action: &'static str,
    text: String,
    commands: Vec<String>,
}

#[derive(Serialize)]
struct Unread<'a> {
    fact: &'static str,
    why: &'a str,
}

/// All rows, as one object.
pub(super) fn list<'a>(rows: &'a [Row], desk: &'a Desk) -> List<'a> {
    let read_at = rows.iter().map(|row| row.facts.now).max().unwrap_or_else(|| desk.clock.now());
    List {
        api_version: crate::cli::API_VERSION,
        kind: "NodeStandingList",
        read_at,
        source: &desk.source,
        items: rows.iter().map(|row| item(row, desk)).collect(),
    }
}

/// One row, as an object on one line.
pub(super) fn line(row: &Row, desk: &Desk) -> serde_json::Result<String> {
    serde_json::to_string(&item(row, desk))
}

impl List<'_> {
    pub fn to_json(&self) -> anyhow::Result<String> {
        Ok(format!("{}\n", serde_json::to_string_pretty(self)?))
    }

    pub fn to_yaml(&self) -> anyhow::Result<String> {
        Ok(serde_saphyr::to_string(self)?)
    }
}

fn item<'a>(row: &'a Row, desk: &Desk) -> Item<'a> {
    let Row { listed, facts, standing, .. } = row;
    let node = &listed.node;
    let recorded = |key: &str| node.annotation(key);
    let present = |text: &'a str| Some(text).filter(|text| !text.is_empty());
    let entries = node.out_of_service().zip(listed.about.times_added());
    Item {
        node: row.name(),
        uid: present(&listed.node.metadata.uid),
        state: standing.state.name(),
        since: row.out_since(),
        notes: standing.notes.iter().map(|note| note.name()).collect(),
        ready: Ready {
            status: node.ready_status(),
            since: node.status.conditions.first().and_then(|ready| ready.last_transition_time),
        },
        lease: facts.lease.value().ok().map(|answer| Lease {
            renew_time: answer.last_renewal(desk.settings.clock_skew),
            duration_seconds: answer.duration().as_secs(),
            ran_out: standing.is_heard == Some(false),
        }),
        boot_id: node.boot_id(),
        addresses: node.status.addresses.iter().map(|address| address.address.as_str()).collect(),
        provider_id: present(&node.spec.provider_id),
        taints: entries
            .map(|(taint, time_added)| Taint { effect: &taint.effect, value: &taint.value, time_added })
            .collect(),
        record: Record {
            method: recorded(METHOD),
            fenced_at: recorded(FENCED_AT),
            fenced_by: recorded(FENCED_BY),
            proof: recorded(PROOF),
            boot_id: recorded(BOOT_ID),
            recorded_by: recorded(RECORDED_BY),
            recorded_at: recorded(RECORDED_AT),
            placed_by: recorded(PLACED_BY),
            placed_at: recorded(PLACED_AT),
            source: recorded(SOURCE),
            overridden: recorded(OVERRIDDEN),
        },
        remaining: remaining(row),
        verdicts: Verdicts {
            place: standing.verdicts.place.as_ref().map(verdict),
            release: standing.verdicts.release.as_ref().map(verdict),
            delete: standing.verdicts.delete.as_ref().map(verdict),
        },
        next: next(row, desk),
        unread: standing.unread.iter().map(|(fact, why)| Unread { fact: fact.name(), why }).collect(),
        last_outage: recorded(LAST_OUTAGE)
            .and_then(|outage| serde_json::from_str(outage).ok())
            .filter(serde_json::Value::is_object),
    }
}

/// The objects behind the names that the gate gives, and the pods that may stay with their volumes.
fn remaining<'a>(row: &'a Row) -> Remaining<'a> {
    let Row { listed, facts, standing, .. } = row;
    let is_out = listed.node.is_out_of_service();
    let told = |one: &'a Pod| {
        let holds = standing.pods.iter().any(|held| held.name.raw() == one.full_name());
        let may_stay = !holds && is_out && one.may_stay(&listed.node) && one.claimed().next().is_some();
        (holds || may_stay).then(|| pod(one, may_stay))
    };
    let attachments = facts.volume_attachments.value().into_iter().flatten();
    let is_held = |attachment: &&VolumeAttachment| standing.holds_volume(&attachment.metadata.name);
    Remaining {
        pods: facts.pods.value().into_iter().flatten().filter_map(told).collect(),
        volumes: attachments
            .filter(is_held)
            .map(|held| attachment(held, row))
            .chain(of_status(&listed.node, row))
            .collect(),
    }
}

fn pod(pod: &Pod, may_stay: bool) -> RemainingPod<'_> {
    RemainingPod {
        namespace: &pod.metadata.namespace,
        name: &pod.metadata.name,
        owner: pod.controller().map(|owner| format!("{}/{}", owner.kind, owner.name)),
        deletion_timestamp: pod.metadata.deletion_timestamp.as_deref(),
        finalizers: &pod.metadata.finalizers,
        may_stay,
    }
}

fn attachment<'a>(attachment: &'a VolumeAttachment, row: &'a Row) -> RemainingVolume<'a> {
    let volume = attachment.persistent_volume();
    let known = volume.and_then(|name| row.facts.persistent_volumes.get(name)?.value().ok()?.as_ref());
    RemainingVolume {
        volume_attachment: Some(&attachment.metadata.name),
        persistent_volume: volume,
        claim: known.and_then(|volume| volume.spec.claim_ref.as_ref()).map(ToString::to_string),
        attacher: Some(&attachment.spec.attacher),
        attached: attachment.status.attached,
        detach_error: attachment.error().map(|error| error.message.as_str()),
        in_status: None,
    }
}

fn of_status<'a>(node: &'a Node, row: &'a Row) -> impl Iterator<Item = RemainingVolume<'a>> {
    let held = node.status.volumes_attached.iter().filter(|volume| row.standing.holds_volume(&volume.name));
    held.map(|volume| RemainingVolume {
        volume_attachment: None,
        persistent_volume: None,
        claim: None,
        attacher: None,
        attached: true,
        detach_error: None,
        in_status: Some(&volume.name),
    })
}

fn verdict(decision: &Decision) -> Verdict {
    let reason = |finding: &Finding| Reason {
        code: finding.reason.code().name(),
        mode: finding.mode.name(),
        message: finding.reason.to_string(),
    };
    Verdict {
        allowed: decision.allowed,
        reasons: decision.findings.iter().map(reason).collect(),
        warnings: decision.warnings.clone(),
    }
}

fn next(row: &Row, desk: &Desk) -> Next {
    let said = super::said(row, desk).unwrap_or_default();
    let commands = said.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| line.starts_with("kubectl "));
    Next {
        action: row.standing.next.name(),
        text: super::long::next(row.standing.next, row.standing.state).to_owned(),
        commands: commands.map(str::to_owned).collect(),
    }
}
