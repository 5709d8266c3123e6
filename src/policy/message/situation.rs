//! What is known about a denied write, and the commands that fit it.

use std::collections::BTreeSet;

use jiff::SignedDuration;

use crate::policy::{
    annotation::{APPLIED_BY, BREAK_GLASS, FENCED_AT, FENCED_BY, METHOD, NOW, REQUIRED_EVIDENCE},
    blocker::{BlockingPod, Leaving},
    decision::{BreakGlass, Decision, Finding},
    evidence::{self, Method},
    object::node::{Node, OUT_OF_SERVICE},
    reason::{Code, Reason},
    request::{Request, SERVICE_ACCOUNT_PREFIX},
    shell::Command,
    text::{NAMED, is_printable},
    transition::Transition,
};

/// How long after a node's last renewal the node controller turns its Ready to Unknown
/// (kube-controller-manager: `--node-monitor-grace-period`).
const UNKNOWN_AFTER: SignedDuration = SignedDuration::from_secs(50);

/// A denied write.
#[derive(Clone, Copy)]
pub(super) struct Situation<'a> {
    pub request: &'a Request,
    pub decision: &'a Decision,
}

impl<'a> Situation<'a> {
    /// Whether the write makes this transition.
    pub fn does(&self, transition: Transition) -> bool {
        self.decision.transitions.contains(transition)
    }

    /// Whether one of these checks denies the write, or speaks against the fence that it needs.
    pub fn denies(&self, codes: &[Code]) -> bool {
        self.denying().any(|reason| codes.contains(&reason.code()))
    }

    /// The reasons that deny the write, and those that speak against the fence that it needs.
    fn denying(&self) -> impl Iterator<Item = &'a Reason> {
        let denying = self.decision.findings.iter().filter(|finding| finding.denies());
        denying.flat_map(|Finding { reason, .. }| [reason].into_iter().chain(reason.against()))
    }

    /// Whether the write needs a fence: it places the taint, or takes another door to the same
    /// harm.
    pub fn needs_fence(&self) -> bool {
        self.does(Transition::Place) || self.decision.transitions.iter().any(|one| Code::of_door(one).is_some())
    }

    /// Whether the stored Node is Ready.
    pub fn is_ready(&self) -> bool {
        self.request.write.before().is_some_and(|node| node.ready().is_some())
    }

    /// Whether the machine showed that it lives after the recorded fence.
    pub fn is_renewed_after_the_fence(&self) -> bool {
        self.denying().any(|reason| matches!(reason, Reason::LeaseStillRenewed { fenced_at: Some(_), .. }))
    }

    /// The well-formed value that the write, or the Node that it deletes, has for a key.
    fn recorded(&self, key: &str) -> Option<&'a str> {
        let value = self.request.write.newest().annotation(key)?;
        evidence::malformed(key, value).is_none().then_some(value)
    }

    /// How the node was fenced, if anyone recorded that.
    pub fn method(&self) -> Option<Method> {
        Method::parse(self.recorded(METHOD)?)
    }

    /// Whether the node is fenced, as far as anyone says: nothing has to be switched off.
    pub fn is_said_to_be_fenced(&self) -> bool {
        self.method().is_some() || self.decision.fence.is_some()
    }

    /// How long the machine must be silent until nothing contradicts a fence any more: until its
    /// Lease has run out, and until the node controller has turned Ready to Unknown.
    pub fn silence(&self) -> SignedDuration {
        let leases = self.denying().filter_map(|reason| match reason {
            Reason::LeaseStillRenewed { runs_out_after, .. } => *runs_out_after,
            _ => None,
        });
        leases.chain([UNKNOWN_AFTER]).max().unwrap_or(UNKNOWN_AFTER)
    }

    /// Whether the machine talks to the API server now.
    pub fn is_alive(&self) -> bool {
        let is_sign_of_life = |reason: &Reason| {
            matches!(reason, Reason::NodeStillReady { .. } | Reason::LeaseStillRenewed { runs_out_after: Some(_), .. })
        };
        self.denying().any(is_sign_of_life)
    }

    /// Whether a break-glass could waive every denial.
    pub fn can_be_waived(&self) -> bool {
        self.decision
            .findings
            .iter()
            .filter(|finding| finding.denies())
            .all(|finding| finding.reason.code().can_be_waived())
    }

    /// Whether the machine was only cut off.
    pub fn is_isolated(&self) -> bool {
        self.method().is_some_and(|method| !method.stops_the_machine())
    }

    /// Whether the write sets a key to a well-formed value, or leaves it so.
    pub fn is_recorded(&self, key: &str) -> bool {
        self.recorded(key).is_some()
    }

    /// Whether the stored Node has nothing of the evidence that is required.
    pub fn lacks_record(&self) -> bool {
        !REQUIRED_EVIDENCE.into_iter().any(|key| self.is_stored(key))
    }

    /// The keys whose malformed values deny the write.
    pub fn malformed(&self) -> impl Iterator<Item = &'static str> {
        self.denying().flat_map(|reason| match reason {
            Reason::EvidenceMalformed { values } => values.iter().map(|value| value.key).collect(),
            _ => vec![],
        })
    }

    fn is_stored(&self, key: &str) -> bool {
        self.request.write.before().is_some_and(|node| node.annotation(key).is_some())
    }

    /// Records these keys for a fence that took effect just now, and removes those of `removed`
    /// that are stored. `None` if there is nothing to do.
    pub fn record(&self, keys: &[&str], removed: &BTreeSet<&str>) -> Option<Command> {
        let changes: Vec<String> = keys
            .iter()
            .map(|key| format!("{key}={}", self.value(key)))
            .chain(removed.iter().filter(|key| self.is_stored(key)).map(|key| format!("{key}-")))
            .collect();
        let overwrite = keys.iter().any(|key| self.is_stored(key)).then(|| "--overwrite".to_owned());
        (!changes.is_empty())
            .then(|| Command::new("kubectl annotate node").arg(self.name()).args(changes).args(overwrite))
    }

    /// The value of a required evidence key in a command.
    fn value(&self, key: &str) -> String {
        let stopped = self.method().filter(|method| method.stops_the_machine());
        match key {
            METHOD => stopped.unwrap_or(Method::PowerOff).name().to_owned(),
            FENCED_AT => self.time_of_fence(),
            _ => self.requester(),
        }
    }

    /// The time of a fence that took effect just now. Where nothing has replaced `now`, the time
    /// itself.
    fn time_of_fence(&self) -> String {
        let is_kept = self.request.write.newest().annotation(FENCED_AT) == Some(NOW);
        match self.decision.at.filter(|_| is_kept) {
            Some(at) => at.strftime("%FT%TZ").to_string(),
            None => NOW.to_owned(),
        }
    }

    /// The requester's name as a value of `fenced-by`.
    fn requester(&self) -> String {
        let name: String =
            self.request.user.name.chars().filter(|character| is_printable(*character)).take(256).collect();
        if evidence::malformed(FENCED_BY, &name).is_some() { "an unnamed user".to_owned() } else { name }
    }

    /// Places the taint as the procedure has it. Empty if it is on the stored Node.
    pub fn place(&self) -> Vec<Command> {
        if self.request.write.before().is_some_and(Node::evicts) {
            return Vec::new();
        }
        vec![self.taint("=nodeshutdown:NoExecute")]
    }

    /// Moves what can move off the node, while its machine works.
    pub fn drain(&self) -> Command {
        Command::new("kubectl drain").arg(self.name()).arg("--ignore-daemonsets")
    }

    /// Lets the requester delete Nodes of machines that it knows to be gone, if it is a program.
    pub fn let_vouch(&self) -> Option<Command> {
        let account = self.request.user.name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?;
        let name = format!("fencegate-voucher-{}", account.replace(':', "-"));
        let grant = Command::new("kubectl create clusterrolebinding").arg(name);
        Some(grant.arg("--clusterrole=fencegate-voucher").arg(format!("--serviceaccount={account}")))
    }

    /// Removes every entry of the taint.
    pub fn release(&self) -> Command {
        self.taint("-")
    }

    fn taint(&self, change: &str) -> Command {
        Command::new("kubectl taint node").arg(self.name()).arg(format!("{OUT_OF_SERVICE}{change}"))
    }

    /// Removes the break-glass, and writes it again with the same reason.
    pub fn renew_break_glass(&self) -> Vec<Command> {
        let BreakGlass::TooOld(reason) = &self.decision.break_glass else { return Vec::new() };
        [format!("{BREAK_GLASS}-"), format!("{BREAK_GLASS}={reason}")]
            .map(|change| Command::new("kubectl annotate node").arg(self.name()).arg(change))
            .into()
    }

    /// Removes pacemaker's mark.
    pub fn remove_mark(&self) -> Command {
        Command::new("kubectl annotate node").arg(self.name()).arg(format!("{APPLIED_BY}-"))
    }

    /// Shows the pods that wait for a finalizer.
    pub fn show_pods_with_finalizers(&self) -> Vec<Command> {
        let waits = |pod: &BlockingPod| matches!(&pod.leaving, Leaving::Terminating { finalizers, .. } if !finalizers.is_empty());
        self.for_each_pod("kubectl get pod -o yaml -n", waits)
    }

    /// Deletes the pods that nothing evicts.
    pub fn delete_pods(&self) -> Vec<Command> {
        self.for_each_pod("kubectl delete pod -n", |pod| {
            matches!(pod.leaving, Leaving::Tolerates | Leaving::NotEvicted)
        })
    }

    /// A command for each of the pods that the message names.
    fn for_each_pod(&self, words: &'static str, concerns: impl Fn(&BlockingPod) -> bool) -> Vec<Command> {
        let pods = self.decision.findings.iter().flat_map(|finding| match &finding.reason {
            Reason::PodsRemain { pods } => pods.as_slice(),
            _ => &[],
        });
        let names = pods.filter(|pod| concerns(pod)).filter_map(|pod| pod.name.raw().split_once('/'));
        names.take(NAMED).map(|(namespace, name)| Command::new(words).arg(namespace).arg(name)).collect()
    }

    pub fn delete(&self) -> Command {
        Command::new("kubectl delete node").arg(self.name())
    }

    pub fn show(&self) -> Command {
        Command::new("kubectl get node").arg(self.name()).arg("-o").arg("wide")
    }

    pub fn show_record(&self) -> Command {
        Command::new("kubectl get node").arg(self.name()).arg("-o").arg("jsonpath={.metadata.annotations}")
    }

    pub fn list_pods(&self) -> Command {
        let selector = format!("spec.nodeName={}", escaped(self.name(), &['\\', ',', '=']));
        Command::new("kubectl get pods --all-namespaces --field-selector").arg(selector).arg("-o").arg("wide")
    }

    pub fn list_volumes_of_node(&self) -> Command {
        Command::new("kubectl get node").arg(self.name()).arg("-o").arg("jsonpath={.status.volumesAttached[*].name}")
    }

    /// VolumeAttachments have no field selectors.
    pub fn list_attachments(&self) -> Command {
        let of_node = format!(r#".items[?(@.spec.nodeName=="{}")]"#, escaped(self.name(), &['\\', '"']));
        let columns =
            r#"{.metadata.name}{" "}{.spec.source.persistentVolumeName}{" attached="}{.status.attached}{"\n"}"#;
        Command::new("kubectl get volumeattachments -o").arg(format!("jsonpath={{range {of_node}}}{columns}{{end}}"))
    }

    pub fn list_taints() -> Command {
        Command::new("kubectl get nodes -o").arg("custom-columns=NAME:.metadata.name,TAINTS:.spec.taints[*].key")
    }

    pub fn list_nodes() -> Command {
        Command::new("kubectl get nodes -o").arg("wide")
    }

    fn name(&self) -> &'a str {
        &self.request.node
    }
}

/// The text with a backslash before each of these characters.
fn escaped(text: &str, special: &[char]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if special.contains(&character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}
