//! The body of an AdmissionReview, and the answer to it.
//!
//! The first byte chooses the webhook, the settings and what is known about the cluster. The rest
//! is the body.

use std::sync::LazyLock;

use fencegate::{
    admission::review::{self, Answer},
    cluster::Snapshot,
    config,
    policy::{
        self, Decision,
        facts::{Fact, Facts},
        object::node::Node,
        reason::Code,
        request::Request,
        review::{Content, Review, Webhook},
        settings::Settings,
    },
};
use jiff::Timestamp;
use serde_json::Value;

use super::{memory, words};

/// The most memory that a review takes while it is read, decided and answered: a multiple of its
/// length, and what even the smallest one takes. An empty group, three bytes of text, takes 24
/// times its length, but all that is said of a requester is short. So a long review takes less.
const MULTIPLE: usize = 32;
const MULTIPLE_OF_A_LONG_ONE: usize = 4;
const MOST_OF_A_SHORT_ONE: usize = 8 * 1024 * 1024;
const LEAST: usize = 256 * 1024;

/// The cluster of the reviews: the built-in example, and again for a node `n1`.
static CLUSTER: LazyLock<Snapshot> = LazyLock::new(|| {
    let example = include_str!("../../src/cluster/file/example.yaml");
    Snapshot::parse(&format!("{example}\n---\n{}", example.replace("worker-2", "n1"))).unwrap()
});

static SETTINGS: LazyLock<[Settings; 4]> = LazyLock::new(|| {
    let strict = "evidence: {maxAge: 4m, sources: [network-fence, fence-agents-remediation, self-node-remediation, \
                  bare-metal-host, pacemaker, cloud-shutdown, annotations]}\n\
                  place: {maxNodes: 1, maxNotReady: 50%}\nauthorization: {attest: rbac}\n\
                  release: {countTolerating: true}\ndoors: {nodes: enforce, pods: enforce, attachments: enforce}\n";
    let lenient = "checks: {NodeStillReady: warn, EvidenceMissing: warn, PodsRemain: warn, VolumesAttached: warn}";
    ["{}", strict, lenient, "mode: warn"].map(|text| config::parse(text.as_bytes()).unwrap())
});

pub fn now() -> Timestamp {
    Timestamp::constant(1_795_342_800, 0)
}

pub fn check(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else { return };
    let settings = &SETTINGS[usize::from(choice >> 1 & 3)];
    let webhook = Webhook::ALL[usize::from(choice & 1)];
    let facts = |request: &Request| facts(choice >> 3 & 3, request, settings);
    LazyLock::force(&CLUSTER);
    let (answer, peak) = memory::peak(|| answer(webhook, body, settings, facts));
    let long = MULTIPLE_OF_A_LONG_ONE * body.len() + MOST_OF_A_SHORT_ONE;
    let most = long.min(MULTIPLE * body.len()) + LEAST;
    assert!(peak <= most, "{peak} bytes of memory for a review of {} bytes", body.len());
    check_answer(webhook, body, answer.as_deref());
}

fn facts(choice: u8, request: &Request, settings: &Settings) -> Facts {
    let query = policy::facts_needed(request, settings);
    match choice {
        0 => CLUSTER.read(request, &query, now()),
        1 => CLUSTER.read(request, &Fact::all().collect(), now()),
        2 => Facts::at(now()),
        _ => {
            let mut facts = Facts::at(now());
            for fact in query {
                facts.fail(now(), fact, format!("no\n{} \u{202e}", words::FORGED));
            }
            facts
        }
    }
}

/// The answer to a body, as the program makes it. `None` if the body has no readable `uid`.
fn answer(webhook: Webhook, body: &[u8], settings: &Settings, facts: impl Fn(&Request) -> Facts) -> Option<String> {
    let review = review::read(body).ok()?;
    let decision = decide(webhook, &review, settings, facts);
    Some(serde_json::to_string(&Answer::new(webhook, &review, &decision)).unwrap())
}

/// The decision about a review, without a record.
pub fn decide(webhook: Webhook, review: &Review, settings: &Settings, facts: impl Fn(&Request) -> Facts) -> Decision {
    match review.content_for(webhook) {
        Content::Node(request) => policy::decide(webhook, request, &facts(request), settings),
        // The gate reads the Node; here it is a bare one.
        Content::Door(door) => match door.as_ref().clone().request(Node::default()) {
            Some(request) => policy::decide(webhook, &request, &facts(&request), settings),
            None => Decision::unrelated(),
        },
        Content::Unrelated => Decision::unrelated(),
        Content::Malformed { node, why } => {
            Decision::malformed(node.clone(), why.clone(), settings.strictest(Code::ReviewMalformed))
        }
    }
}

fn check_answer(webhook: Webhook, body: &[u8], answer: Option<&str>) {
    let sent: Option<Value> = serde_json::from_slice(body).ok();
    let uid = sent.as_ref().and_then(|sent| sent.get("request")?.get("uid")?.as_str());
    let Some(answer) = answer else {
        // A body that has a field twice is not readable. Written again, it has it once.
        let is_answered = |sent: &Value| review::read(sent.to_string().as_bytes()).is_ok();
        assert!(uid.is_none() || sent.as_ref().is_some_and(is_answered), "a review with a uid is not answered");
        return;
    };
    let answer: Value = serde_json::from_str(answer).unwrap();
    let response = &answer["response"];
    if sent.is_some() {
        assert_eq!(response["uid"].as_str(), uid, "another uid");
    }
    check_texts(response);
    let allowed = response["allowed"].as_bool().unwrap();
    assert_eq!(response["status"]["code"] == 403, !allowed);
    assert!(response.get("patch").is_none() || (allowed && webhook == Webhook::Mutate));
}

/// Checks what a user reads of a response.
pub fn check_texts(response: &Value) {
    if let Some(message) = response["status"]["message"].as_str() {
        words::check_denial(message);
    }
    let warnings = response["warnings"].as_array().into_iter().flatten();
    warnings.filter_map(Value::as_str).for_each(words::check_warning);
}
