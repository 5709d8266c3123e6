use serde_json::{Value, json};

use super::*;
use crate::policy::{
    facts::{Access, LeaseAnswer, Observed, Verb},
    object::{node::OUT_OF_SERVICE, pod::Pod, volume::VolumeAttachment},
    reason::Mode,
    source::Source,
};

const NOW: &str = "2026-11-22T10:20:00Z";

/// A node and what is known about it, in short. The default is a dead node that nobody attested,
/// with a pod and a volume on it.
#[derive(Clone)]
struct Node1 {
    tainted: bool,
    ready: &'static str,
    boot: &'static str,
    /// Seconds since the last renewal. `None`: the Lease could not be read.
    renewed: Option<i64>,
    annotations: Value,
    pods: Option<Value>,
    volumes: Option<Value>,
}

fn dead() -> Node1 {
    Node1 {
        tainted: false,
        ready: "Unknown",
        boot: "boot-1",
        renewed: Some(600),
        annotations: json!({}),
        pods: Some(json!([pod(json!({}))])),
        volumes: Some(json!([volume(json!({}))])),
    }
}

/// Fenced at 10:15:00, while the last renewal was at 10:10:00.
fn attested() -> Node1 {
    Node1 {
        annotations: json!({
            "fencegate.dev/method": "power-off",
            "fencegate.dev/fenced-at": "2026-11-22T10:15:00Z",
            "fencegate.dev/fenced-by": "alice",
            "fencegate.dev/boot-id": "boot-1",
        }),
        ..dead()
    }
}

/// Out of service since 10:16:05, one minute and five seconds before now.
fn out() -> Node1 {
    let mut out = Node1 { tainted: true, ..attested() };
    out.annotations["fencegate.dev/placed-by"] = json!("alice");
    out.annotations["fencegate.dev/placed-at"] = json!("2026-11-22T10:18:55Z");
    out
}

/// Out of service, and nothing is left on it.
fn emptied() -> Node1 {
    Node1 { pods: Some(json!([])), volumes: Some(json!([])), ..out() }
}

impl Node1 {
    #[expect(clippy::needless_pass_by_value, reason = "literals read better without an ampersand")]
    fn with(mut self, key: &str, value: Value) -> Self {
        json_patch::merge(&mut self.annotations, &json!({format!("fencegate.dev/{key}"): value}));
        self
    }

    fn stored(&self) -> Node {
        let taints = if self.tainted {
            json!([{"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}])
        } else {
            json!([])
        };
        let ready = json!({"type": "Ready", "status": self.ready, "lastTransitionTime": "2026-11-22T10:10:40Z"});
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": self.annotations},
            "spec": {"taints": taints},
            "status": {"conditions": [ready], "nodeInfo": {"bootID": self.boot}},
        }))
        .unwrap()
    }

    fn facts(&self) -> Facts {
        let at: Timestamp = NOW.parse().unwrap();
        let lease = self.renewed.map(|age| LeaseAnswer {
            date: at,
            lease: Some(
                serde_json::from_value::<crate::policy::object::lease::Lease>(
                    json!({"spec": {"renewTime": at - SignedDuration::from_secs(age), "leaseDurationSeconds": 40}}),
                )
                .unwrap()
                .with_managed_fields(),
            ),
        });
        let pods: Option<Vec<Pod>> = self.pods.clone().map(|pods| serde_json::from_value(pods).unwrap());
        let volumes: Option<Vec<VolumeAttachment>> =
            self.volumes.clone().map(|volumes| serde_json::from_value(volumes).unwrap());
        Facts {
            lease: known(at, lease),
            pods: known(at, pods),
            volume_attachments: known(at, volumes),
            ..Facts::at(at)
        }
    }

    fn standing(&self) -> Standing {
        let user = User { name: "alice".into(), ..User::default() };
        standing(&self.stored(), &user, &self.facts(), &Settings::default())
    }
}

fn known<T>(at: Timestamp, value: Option<T>) -> Observed<T> {
    Observed::new(at, value.ok_or("forbidden"))
}

#[expect(clippy::needless_pass_by_value, reason = "literals read better without an ampersand")]
fn pod(more: Value) -> Value {
    let mut pod = json!({"metadata": {"namespace": "prod", "name": "db-0", "ownerReferences":
        [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true}]},
        "spec": {"nodeName": "n1"}});
    json_patch::merge(&mut pod, &more);
    pod
}

#[expect(clippy::needless_pass_by_value, reason = "literals read better without an ampersand")]
fn volume(more: Value) -> Value {
    let mut volume = json!({"metadata": {"name": "csi-1"}, "status": {"attached": true},
        "spec": {"nodeName": "n1", "attacher": "d", "source": {"inlineVolumeSpec": {}}}});
    json_patch::merge(&mut volume, &more);
    volume
}

fn told(cases: Vec<(&str, Node1, State, Next)>) {
    for (what, node, state, next) in cases {
        let standing = node.standing();
        assert_eq!((standing.state, standing.next), (state, next), "{what}: {standing:#?}");
    }
}

/// The machine is back.
fn ready(node: Node1) -> Node1 {
    Node1 { ready: "True", renewed: Some(4), ..node }
}

#[test]
fn one_state_is_true_of_a_node_without_the_taint() {
    told(vec![
        ("nobody said that it is off", dead(), State::Silent, Next::Fence),
        (
            "nothing is on it",
            Node1 { pods: Some(json!([])), volumes: Some(json!([])), ..dead() },
            State::Silent,
            Next::Nothing,
        ),
        ("its kubelet lives", Node1 { renewed: Some(4), ..dead() }, State::NotReady, Next::Look),
        (
            "its kubelet says that it is not Ready",
            Node1 { ready: "False", renewed: Some(4), ..dead() },
            State::NotReady,
            Next::Look,
        ),
        ("Ready", ready(dead()), State::InService, Next::Nothing),
        (
            "Ready, and no Lease could be read",
            Node1 { renewed: None, ..ready(dead()) },
            State::InService,
            Next::Nothing,
        ),
        ("the Lease could not be read", Node1 { renewed: None, ..dead() }, State::Unknown, Next::Look),
        ("the pods could not be read", Node1 { pods: None, ..dead() }, State::Unknown, Next::Look),
        ("the volumes could not be read", Node1 { volumes: None, ..dead() }, State::Unknown, Next::Look),
        ("fenced", attested(), State::Attested, Next::Place),
        (
            "fenced, and only the pods could not be read",
            Node1 { pods: None, ..attested() },
            State::Attested,
            Next::Place,
        ),
        ("fenced, and heard since", Node1 { renewed: Some(100), ..attested() }, State::Contradicted, Next::Fence),
        ("fenced, and heard just now", Node1 { renewed: Some(4), ..attested() }, State::Contradicted, Next::Fence),
        (
            "fenced, long ago",
            attested().with("fenced-at", json!("2026-11-20T10:15:00Z")),
            State::Contradicted,
            Next::Fence,
        ),
        ("fenced in another boot", Node1 { boot: "boot-2", ..attested() }, State::Contradicted, Next::Fence),
        (
            "fenced, in a form that nobody can read",
            attested().with("method", json!("prayer")),
            State::Contradicted,
            Next::Fence,
        ),
        ("half a record", attested().with("method", Value::Null), State::Silent, Next::Fence),
        ("fenced, and Ready", ready(attested()), State::InService, Next::Nothing),
    ]);
}

#[test]
fn one_state_is_true_of_a_node_with_the_taint() {
    let leaving = |at: &str| Some(json!([pod(json!({"metadata": {"deletionTimestamp": at}}))]));
    let placed_long_ago = |node: Node1| node.with("placed-at", json!("2026-11-22T10:14:59Z"));
    told(vec![
        ("out, and emptying", out(), State::Emptying, Next::Wait),
        (
            "out for long, and a pod began to leave",
            Node1 { pods: leaving("2026-11-22T10:16:00Z"), ..placed_long_ago(out()) },
            State::Emptying,
            Next::Wait,
        ),
        ("out for long", placed_long_ago(out()), State::Stuck, Next::Look),
        (
            "out for long, and so is the pod's deletion",
            Node1 { pods: leaving("2026-11-22T10:14:59Z"), ..placed_long_ago(out()) },
            State::Stuck,
            Next::Look,
        ),
        ("out, and nobody knows since when", out().with("placed-at", Value::Null), State::Stuck, Next::Look),
        ("out since a time to come", out().with("placed-at", json!("2026-11-22T11:00:00Z")), State::Stuck, Next::Look),
        ("only a volume is left", Node1 { pods: Some(json!([])), ..out() }, State::Emptying, Next::Wait),
        (
            "a volume is left, and the pods could not be read",
            Node1 { pods: None, ..out() },
            State::Emptying,
            Next::Wait,
        ),
        ("out, and heard", Node1 { renewed: Some(4), ..out() }, State::Alive, Next::Look),
        ("out, and Ready", ready(out()), State::Alive, Next::Look),
        (
            "out, and Ready in a boot that nobody recorded",
            ready(out()).with("boot-id", Value::Null),
            State::Alive,
            Next::Look,
        ),
        ("out, and Ready in another boot", Node1 { boot: "boot-2", ..ready(out()) }, State::Emptying, Next::Wait),
        ("out, and nobody knows whether it is heard", Node1 { renewed: None, ..out() }, State::Unknown, Next::Look),
        ("out, in another boot", Node1 { renewed: None, boot: "boot-2", ..out() }, State::Emptying, Next::Wait),
        ("empty", emptied(), State::Empty, Next::Repair),
        ("empty, and the volumes could not be read", Node1 { volumes: None, ..emptied() }, State::Unknown, Next::Look),
        ("empty, and the pods could not be read", Node1 { pods: None, ..emptied() }, State::Unknown, Next::Look),
        ("empty, and back", Node1 { boot: "boot-2", ..ready(emptied()) }, State::Recovered, Next::Release),
        ("empty, and back in the boot that was fenced", ready(emptied()), State::SameBoot, Next::Reboot),
        (
            "empty, and back, with no boot on record",
            ready(emptied()).with("boot-id", Value::Null),
            State::Recovered,
            Next::Release,
        ),
    ]);
}

#[test]
fn a_check_that_is_turned_down_makes_no_machine_dead_and_no_node_empty() {
    let all_off = [Code::EvidenceMissing, Code::LeaseStillRenewed, Code::PodsRemain, Code::VolumesAttached];
    let off = Settings { modes: all_off.map(|code| (code, Mode::Off)).into(), ..Settings::default() };
    for settings in [Settings { mode: Mode::Warn, ..Settings::default() }, off] {
        for node in
            [dead(), Node1 { renewed: Some(4), ..dead() }, Node1 { renewed: Some(4), ..out() }, attested(), out()]
        {
            let user = User { name: "alice".into(), ..User::default() };
            let told = standing(&node.stored(), &user, &node.facts(), &settings);
            assert_eq!((told.state, told.pods.len()), (node.standing().state, 1), "{settings:?}");
        }
    }
}

#[test]
fn a_break_glass_on_the_node_makes_no_machine_dead() {
    let node = dead().with("break-glass", json!("drill")).with("break-glass-by", json!("alice"));
    let node = Node1 { renewed: Some(4), ..node.with("break-glass-at", json!(NOW)) };
    let mut facts = node.facts();
    let access = Observed::Known { at: facts.now, value: Access { allowed: true } };
    facts.access.insert(Verb::BreakGlass, access);
    let user = User { name: "alice".into(), ..User::default() };
    let told = standing(&node.stored(), &user, &facts, &Settings::default());
    assert!(told.verdicts.place.is_some_and(|place| place.allowed), "the gate would let it through");
    assert_eq!(told.state, State::NotReady);
}

#[test]
fn a_lease_that_says_nothing_is_no_silence() {
    let ahead = |node: Node1| Node1 { renewed: Some(-60), ..node };
    let young = |mut stored: Node| {
        stored.metadata.creation_timestamp = Some(NOW.parse().unwrap());
        stored
    };
    let told =
        |node: &Node1| standing(&young(node.stored()), &User::default(), &node.facts(), &Settings::default()).state;
    assert_eq!(told(&ahead(dead())), State::Unknown);
    assert_eq!(told(&ahead(attested())), State::Unknown);
    assert_eq!(told(&ahead(out())), State::Unknown);
    assert_eq!(ahead(dead()).standing().state, State::Silent, "an old Node that has been Unknown for long");
    assert_eq!(ahead(out()).standing().state, State::Emptying);
    assert_eq!(ahead(out()).standing().is_heard, Some(false));
}

#[test]
fn a_node_that_is_ready_is_alive_also_where_its_lease_could_not_be_read() {
    let node = Node1 { ready: "True", renewed: None, ..out() };
    assert_eq!(node.standing().state, State::Alive);
}

#[test]
fn a_kubelet_is_heard_until_its_lease_has_run_out_to_the_second() {
    let heard = |age| Node1 { renewed: Some(age), ..dead() }.standing().is_heard;
    // 40 seconds, and ten for clocks that differ.
    assert_eq!((heard(49), heard(50)), (Some(true), Some(false)));
}

#[test]
fn a_record_that_no_source_reads_contradicts_nothing() {
    let node = attested();
    let settings = Settings { sources: vec![Source::CloudShutdown], ..Settings::default() };
    let told = standing(&node.stored(), &User::default(), &node.facts(), &settings);
    assert_eq!((told.state, told.next), (State::Silent, Next::Fence));
}

#[test]
fn what_a_placement_is_denied_for_beside_the_fence_needs_a_look() {
    let settings = Settings { max_nodes: Some(crate::policy::settings::NodeLimit::Count(0)), ..Settings::default() };
    let node = attested();
    let at = NOW.parse().unwrap();
    let nodes = crate::policy::facts::NodeSummary { total: 3, counts_node: true, ..Default::default() };
    let budget = crate::policy::facts::BudgetAnswer { date: at, lease: None };
    let facts = Facts {
        nodes: Observed::Known { at, value: nodes },
        budget: Observed::Known { at, value: budget },
        ..node.facts()
    };
    let standing = standing(&node.stored(), &User::default(), &facts, &settings);
    assert_eq!((standing.state, standing.next), (State::Contradicted, Next::Look));
}

#[test]
fn what_is_worth_knowing_stands_beside_the_state() {
    let ready = |node: Node1| Node1 { boot: "boot-2", ..ready(node) };
    for (what, node, notes) in [
        ("nothing", out(), vec![]),
        ("no record", out().with("placed-by", Value::Null), vec![Note::Unrecorded]),
        ("a break-glass", out().with("overridden", json!("drill")), vec![Note::Overridden]),
        ("back for nine minutes", ready(emptied()), vec![]),
        ("an old record", ready(attested()), vec![Note::StaleEvidence]),
        ("heard after the fence", Node1 { renewed: Some(100), ..attested() }, vec![Note::SameMachine]),
        ("heard within the clock skew of the fence", Node1 { renewed: Some(290), ..attested() }, vec![]),
        ("heard after the fence in another boot", Node1 { renewed: Some(100), boot: "boot-2", ..attested() }, vec![]),
    ] {
        assert_eq!(node.standing().notes, notes, "{what}");
    }
}

#[test]
fn a_taint_is_forgotten_after_a_quarter_of_an_hour() {
    let back = Node1 { boot: "boot-2", ..ready(emptied()) };
    let notes_after = |since: &str| {
        let mut stored = back.stored();
        stored.status.conditions[0].last_transition_time = Some(since.parse().unwrap());
        standing(&stored, &User::default(), &back.facts(), &Settings::default()).notes
    };
    assert_eq!(notes_after("2026-11-22T10:05:00Z"), []);
    assert_eq!(notes_after("2026-11-22T10:04:59Z"), [Note::Forgotten]);
}

#[test]
fn a_standing_has_what_holds_the_taint_and_what_the_gate_would_say() {
    let out = out().standing();
    assert_eq!((out.pods.len(), out.volumes.len()), (1, 1));
    let Verdicts { place: None, release: Some(release), delete: Some(delete) } = &out.verdicts else {
        panic!("{out:?}")
    };
    assert_eq!(release.codes(), [Code::PodsRemain, Code::VolumesAttached, Code::NodeNotRecovered]);
    assert!(!delete.allowed);
    assert_eq!(out.out_since, Some("2026-11-22T10:18:55Z".parse().unwrap()));
    let silent = dead().standing();
    assert_eq!((silent.pods.len(), silent.volumes.len(), silent.out_since), (1, 1, None), "would be displaced");
    assert_eq!(silent.verdicts.place.unwrap().codes(), [Code::EvidenceMissing]);
    assert_eq!(silent.verdicts.release, None);
    let tolerant = pod(json!({"spec": {"tolerations": [{"operator": "Exists"}]}}));
    let staying = Node1 { pods: Some(json!([tolerant])), ..dead() }.standing();
    assert!(staying.pods.is_empty(), "it tolerates the taint");
}

#[test]
fn the_next_step_of_a_node_is_its_release_or_its_placement_and_what_denies_it_is_known() {
    let (held, silent, back) = (out().standing(), dead().standing(), ready(emptied()).standing());
    assert_eq!(held.next_step().map(|(step, decision)| (step, decision.allowed)), Some((Step::Release, false)));
    let denying: Vec<Code> = held.denying().collect();
    assert_eq!(denying, [Code::PodsRemain, Code::VolumesAttached], "a warning denies nothing");
    assert_eq!(silent.next_step().map(|(step, _)| step), Some(Step::Place));
    assert_eq!(silent.denying().collect::<Vec<_>>(), [Code::EvidenceMissing]);
    assert_eq!((back.next_step().map(|(step, _)| step), back.denying().count()), (Some(Step::Release), 0));
    assert_eq!(ready(dead()).standing().next_step(), None);
    assert!(held.holds_volume("csi-1") && !held.holds_volume("csi-2") && !back.holds_volume("csi-1"));
}

#[test]
fn a_fact_that_could_not_be_read_is_named() {
    let standing = Node1 { pods: None, ..dead() }.standing();
    assert_eq!(standing.unread, [(Fact::Pods, "forbidden".to_owned())]);
}

#[test]
fn every_fact_that_a_standing_judges_by_is_asked_for() {
    for node in [dead(), attested(), out(), emptied()] {
        let (_, query) = facts_of(&node.stored(), &User::default(), &Settings::default());
        assert_eq!(query, FactQuery::from([Fact::Lease, Fact::Pods, Fact::VolumeAttachments]));
    }
    let ready = Node1 { ready: "True", ..dead() }.stored();
    assert_eq!(facts_of(&ready, &User::default(), &Settings::default()).1, FactQuery::from([Fact::Lease]));
}
