//! Files for `--cluster`: the output of `kubectl get`, and lines of the audit log. Whatever is in
//! them, the denial of a write is made of the gate's own lines.

use std::sync::LazyLock;

use fencegate::{
    cluster::Snapshot,
    config,
    policy::{
        self,
        facts::{Fact, FactQuery},
        message::denial,
        object::node::Node,
        request::{Request, User, Write},
        review::{Content, Webhook},
        settings::Settings,
    },
};
use serde_json::json;

use super::{review::now, words};

static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
    let file = "evidence: {sources: [annotations, cloud-shutdown, pacemaker, fence-agents-remediation, \
                self-node-remediation, bare-metal-host, network-fence]}\nplace: {maxNodes: 1, maxNotReady: 50%}\n";
    config::parse(file.as_bytes()).unwrap()
});

/// A placement and a release.
static WRITES: LazyLock<[Write; 2]> = LazyLock::new(|| {
    let node = |taints| -> Node {
        let status = json!({"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}], "conditions":
            [{"type": "Ready", "status": "Unknown"}], "nodeInfo": {"bootID": "boot-1"}});
        let spec = json!({"taints": taints, "providerID": "metal3://metal3/host-1/machine"});
        serde_json::from_value(json!({"metadata": {"name": "n1"}, "spec": spec, "status": status})).unwrap()
    };
    let bare = node(json!([]));
    let tainted = node(json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]));
    [Write::Update { old: bare.clone(), new: tainted.clone() }, Write::Update { old: tainted, new: bare }]
});

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let snapshot = match Snapshot::parse(text) {
        Ok(snapshot) => snapshot,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let query: FactQuery = Fact::all().collect();
    for write in WRITES.iter() {
        let user = User { name: "alice".to_owned(), ..User::default() };
        let request = Request { node: "n1".to_owned(), user, write: write.clone() };
        let facts = snapshot.read(&request, &query, now());
        let decision = policy::decide(Webhook::Validate, &request, &facts, &SETTINGS);
        if !decision.allowed {
            words::check_denial(&denial(&decision, &Content::Node(Box::new(request))));
        }
        decision.warnings.iter().for_each(|warning| words::check_warning(warning));
    }
}
