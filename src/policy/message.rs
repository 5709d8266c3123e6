//! The text of a denial: what is not allowed, every reason, and the command to type next (contract
//! section 9).

use std::collections::BTreeSet;

use super::{
    annotation::{APPLIED_BY, FENCED_AT, FENCED_BY, METHOD},
    decision::{BreakGlass, Decision},
    object::node::{Node, OUT_OF_SERVICE},
    reason::{Code, Mode, Reason},
    request::Request,
    source::Doubt,
    text::quoted,
    transition::Transition,
};

/// The text of a denial, several lines joined by `\n`. `request` is `None` if it could not be
/// parsed.
pub fn denial(decision: &Decision, request: Option<&Request>) -> String {
    let mut lines = vec![headline(decision)];
    let denying = || decision.findings.iter().filter(|finding| finding.denies());
    lines.extend(denying().map(|finding| format!("  {}: {}", finding.reason.code(), finding.reason)));
    let codes: BTreeSet<Code> = denying().map(|finding| finding.reason.code()).collect();
    if let Some(request) = request {
        let malformed = denying().find_map(|finding| match &finding.reason {
            Reason::EvidenceMalformed { values } => Some(values.iter().map(|value| value.key).collect()),
            _ => None,
        });
        let advice = Advice { request, decision, codes, malformed: malformed.unwrap_or_default() };
        lines.extend(advice.lines());
    } else {
        lines.push("nothing was changed; send the write again as the API server sends it".to_owned());
    }
    lines.join("\n")
}

/// The first line: `node "worker-2" may not be put out of service:`
fn headline(decision: &Decision) -> String {
    let effect_only = decision.findings.iter().any(|finding| finding.reason.code() == Code::EffectUndocumented);
    let what = match decision.transitions.first() {
        Some(Transition::Place) => "may not be put out of service",
        Some(Transition::Release) => "may not return to service",
        Some(Transition::Delete) => "may not be deleted while out of service",
        Some(Transition::Amend) if effect_only || !decision.transitions.contains(Transition::Attest) => {
            "may not have its out-of-service taint changed"
        }
        Some(Transition::Amend | Transition::Attest) => "may not have its fencing evidence changed",
        None => "may not be written",
    };
    if decision.node.is_empty() {
        format!("a node {what}:")
    } else {
        format!("node {} {what}:", quoted(&decision.node))
    }
}

/// What to do about a denial.
struct Advice<'a> {
    request: &'a Request,
    decision: &'a Decision,
    /// The checks that denied the write.
    codes: BTreeSet<Code>,
    /// Keys with a value that the user must correct.
    malformed: Vec<&'static str>,
}

impl Advice<'_> {
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut advise = |text: &str, commands: &[String]| {
            let colon = if commands.is_empty() { "" } else { ":" };
            lines.push(format!("{text}{colon}"));
            lines.extend(commands.iter().map(|command| format!("  {command}")));
        };
        self.about_the_fence(&mut advise);
        self.about_pods_and_volumes(&mut advise);
        self.about_the_requester(&mut advise);
        if self.denied(&[Code::FactsUnavailable]) {
            advise(
                "nothing was changed; try again once the gate can read these facts, its log says what went wrong",
                &[],
            );
        }
        if self.decision.break_glass == BreakGlass::Spent {
            advise("this break-glass was used before and does not count again; a new use takes a new reason", &[]);
        }
        lines
    }

    /// Advice if the machine may still run, or if nobody recorded the fence.
    fn about_the_fence(&self, advise: &mut dyn FnMut(&str, &[String])) {
        const UNFENCED: [Code; 5] = [
            Code::NodeStillReady,
            Code::LeaseStillRenewed,
            Code::EvidenceExpired,
            Code::EvidenceInFuture,
            Code::EvidenceForOtherBoot,
        ];
        if self.denied(&[Code::CreatedOutOfService]) {
            return advise(
                "create the node without the taint; once its machine is fenced, record that and place the taint",
                &[],
            );
        }
        let places = self.decision.transitions.contains(Transition::Place);
        let only_bad_values =
            self.denied(&[Code::EvidenceMalformed]) && !self.denied(&UNFENCED) && !self.evidence_lacks_keys();
        if self.denied(&[Code::EvidenceMalformed]) && (only_bad_values || !places) {
            advise("correct the record and try again", &[self.annotate(&self.malformed)]);
        } else if places && (self.denied(&UNFENCED) || self.denied(&[Code::EvidenceMissing])) {
            advise(
                "power the machine off, then record it and try again",
                &[self.annotate(&[METHOD, FENCED_BY, FENCED_AT])],
            );
        }
        if self.denied(&[Code::EvidenceMissing]) && self.is_marked_from_before() {
            let remove = format!("kubectl annotate node {} {APPLIED_BY}-", self.node());
            advise("remove pacemaker's mark, which is from an earlier outage", &[remove]);
        }
        if self.denied(&[Code::EffectUndocumented]) {
            advise(
                "use the effect that the procedure knows",
                &[format!("kubectl taint node {} {OUT_OF_SERVICE}=nodeshutdown:NoExecute", self.node())],
            );
        }
        if self.denied(&[Code::TooManyOutOfService]) {
            advise(
                "bring other nodes back first; these are out of service",
                &[format!(
                    "kubectl get nodes -o 'custom-columns=NAME:.metadata.name,TAINTS:.spec.taints[*].key' | grep {OUT_OF_SERVICE}"
                )],
            );
        }
        if self.denied(&[Code::EvidenceFrozen]) || (self.denied(&[Code::EvidenceMissing]) && !places) {
            let read = format!("kubectl get node {} -o jsonpath='{{.metadata.annotations}}'", self.node());
            advise("the record stays as it is until the node is back in service; read it with", &[read]);
        }
    }

    /// Advice if pods are still bound to the node, volumes are still attached to it, or it has not
    /// recovered.
    fn about_pods_and_volumes(&self, advise: &mut dyn FnMut(&str, &[String])) {
        if !self.denied(&[Code::PodsRemain, Code::VolumesAttached, Code::NodeNotRecovered, Code::NodeNotRebooted]) {
            return;
        }
        let mut commands = Vec::new();
        if self.denied(&[Code::PodsRemain]) {
            commands.push(format!(
                "kubectl get pods --all-namespaces --field-selector spec.nodeName={} -o wide",
                self.node()
            ));
        }
        if self.denied(&[Code::VolumesAttached]) {
            commands.push(format!("kubectl get volumeattachments | grep -F {}", self.node()));
        }
        if self.denied(&[Code::NodeNotRecovered, Code::NodeNotRebooted]) {
            commands.push(format!("kubectl get node {} -o wide", self.node()));
        }
        if self.denied(&[Code::NodeNotRebooted]) {
            advise("power-cycle the machine before it returns", &[]);
        }
        if self.decision.transitions.contains(Transition::Delete) {
            commands.push(self.untaint());
            advise("wait until nothing is left there, return it to service, then delete it", &commands);
        } else {
            advise("leave the taint on, wait until nothing holds it any more, then try again", &commands);
        }
    }

    /// Advice if the requester may not do this, independent of the facts.
    fn about_the_requester(&self, advise: &mut dyn FnMut(&str, &[String])) {
        if self.denied(&[Code::SelfAttested]) {
            advise("have it done with credentials that do not live on a node", &[]);
        }
        if self.denied(&[Code::StampForged]) {
            advise("leave the gate's own stamps out of the write and try again", &[]);
        }
        for finding in self.decision.findings.iter().filter(|finding| finding.denies()) {
            if let Reason::NotAuthorized { verb, .. } = &finding.reason {
                // `kubectl auth can-i VERB nodes.fencegate.dev` prints `no` for everyone: kubectl
                // takes a group that the API server does not serve as a part of the resource's
                // name. `--list` works.
                advise(
                    &format!("ask to be bound to ClusterRole {}; what you may do already", verb.role()),
                    &["kubectl auth can-i --list | grep -F fencegate.dev".to_owned()],
                );
            }
        }
    }

    /// Whether pacemaker does not vouch because its mark was there before the write.
    fn is_marked_from_before(&self) -> bool {
        self.decision.findings.iter().any(|finding| match &finding.reason {
            Reason::EvidenceMissing { unvouched } => unvouched.iter().any(|source| source.why == Doubt::LeftOver),
            _ => false,
        })
    }

    fn denied(&self, codes: &[Code]) -> bool {
        codes.iter().any(|code| self.codes.contains(code))
    }

    /// Whether a required key is not set at all. In that case it is not enough to correct values.
    fn evidence_lacks_keys(&self) -> bool {
        let annotation = |key: &&str| self.request.write.after().and_then(|node| node.annotation(key)).is_none();
        [METHOD, FENCED_BY, FENCED_AT].iter().any(annotation)
    }

    /// The command that records these keys, with `--overwrite` if the stored Node has one of them
    /// already.
    fn annotate(&self, keys: &[&str]) -> String {
        let stored: Option<&Node> = self.request.write.before();
        let overwrites = keys.iter().any(|key| stored.is_some_and(|node| node.annotation(key).is_some()));
        let values: Vec<String> = keys.iter().map(|key| format!("{key}={}", example(key))).collect();
        let overwrite = if overwrites { " --overwrite" } else { "" };
        format!("kubectl annotate node {} {}{overwrite}", self.node(), values.join(" "))
    }

    fn untaint(&self) -> String {
        format!("kubectl taint node {} {OUT_OF_SERVICE}-", self.node())
    }

    /// The node's name, quoted for a shell if necessary.
    fn node(&self) -> String {
        let name = &self.request.node;
        let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '-');
        if !name.is_empty() && name.chars().all(plain) {
            return name.clone();
        }
        format!("'{}'", quoted(name).trim_matches('"').replace('\'', "'\\''"))
    }
}

/// The value to show in a command that a user pastes and completes.
fn example(key: &str) -> &'static str {
    match key {
        METHOD => "power-off",
        FENCED_AT => "$(date -u +%FT%TZ)",
        FENCED_BY => "<who>",
        _ => "<text>",
    }
}

/// The table of `docs/reasons.md`, in Markdown: every check with its default mode and its summary.
pub fn reference() -> String {
    let row = |code: &Code| {
        let default = match (code.default_mode(), code.can_be_turned_off()) {
            (Mode::Enforce, false) => "enforce, always",
            (mode, _) => mode.name(),
        };
        format!("| `{code}` | {default} | {} |", code.summary())
    };
    let head = ["| reason | default | fails when |".to_owned(), "| --- | --- | --- |".to_owned()];
    head.into_iter().chain(Code::ALL.iter().map(row)).collect::<Vec<_>>().join("\n")
}
