//! What people and controllers write to the Node, right or wrong, and what the truth makes of it.

use fencegate::policy::{
    annotation::{BOOT_ID, BREAK_GLASS, EVIDENCE, FENCED_AT, FENCED_BY, METHOD, NOW, OVERRIDDEN_BY, RECORDED_BY},
    evidence::Method,
};

use crate::{
    gate::{Actor, Admission, Clocks, Gate, Way, moment, written},
    world::{Attachment, Broken, Copy, Effect, Excuse, GRACE, MAX_AGE, Node, Pod, Ready, Seconds, Word, World},
};

/// A write to the Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Records a fence, with this time.
    Attest(Method, When),
    /// Adds the taint, and nothing else: a plain `kubectl taint`.
    Place(Effect),
    /// Records a fence and adds the taint, in one write.
    AttestAndPlace(Method),
    /// Takes the taint off.
    Release,
    /// Replaces the taint's effect.
    Amend(Effect),
    /// Adds an entry of the taint beside the first.
    Add(Effect),
    /// Says something else about the fence: another method, or another boot.
    Rewrite(Method),
    RewriteBoot,
    /// Takes all evidence back.
    Withdraw,
    /// Writes a stamp in another's name.
    Forge,
    /// Writes a break-glass, for later.
    BreakGlass,
    /// Adds the taint with a break-glass, in one write.
    BreakGlassAndPlace,
    /// Deletes the Node.
    Delete,
    /// Creates the Node with the taint and evidence on it.
    CreateTainted,
    /// Writes a Node back that was read earlier, without its version.
    PutCopy,
    /// Records evidence that breaks the grammar.
    AttestNonsense,
}

/// The time that a record names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum When {
    /// `now`, which the gate replaces.
    Now,
    /// Two minutes from now.
    Later,
}

/// Two minutes: later than the last word of a machine that is cut off meanwhile.
const LATER: Seconds = 120;

/// What a write would store.
enum Wanted {
    Stored(Node),
    Deleted,
}

/// What this write would store. `None`: it does not apply here.
fn wanted(world: &World, intent: Intent, actor: Actor) -> Option<Wanted> {
    let Some(stored) = &world.node else {
        return (intent == Intent::CreateTainted).then(|| Wanted::Stored(created(world, actor)));
    };
    let mut node = stored.clone();
    let is_out = stored.is_out_of_service();
    match intent {
        Intent::Attest(method, when) => attest(&mut node, method, when, world.now, actor),
        Intent::AttestNonsense => {
            attest(&mut node, Method::PowerOff, When::Now, world.now, actor);
            node.annotate(METHOD, Some("asked nicely"));
        }
        Intent::Place(effect) if !is_out => node.taint = vec![effect],
        Intent::AttestAndPlace(method) if !is_out => {
            attest(&mut node, method, When::Now, world.now, actor);
            node.taint = vec![Effect::NoExecute];
        }
        Intent::BreakGlassAndPlace if !is_out => {
            node.annotate(BREAK_GLASS, Some("the monitor is wrong"));
            node.taint = vec![Effect::NoExecute];
        }
        Intent::Release if is_out => node.taint.clear(),
        Intent::Amend(effect) if is_out => node.taint = vec![effect],
        Intent::Add(effect) if is_out && !node.taint.contains(&effect) => node.taint.push(effect),
        Intent::Rewrite(method) if is_out => node.annotate(METHOD, Some(method.name())),
        Intent::RewriteBoot if is_out => node.annotate(BOOT_ID, Some("boot-0")),
        Intent::Withdraw => EVIDENCE.iter().for_each(|key| node.annotate(key, None)),
        Intent::Forge => node.annotate(RECORDED_BY, Some(Actor::Oncall.name())),
        Intent::BreakGlass => node.annotate(BREAK_GLASS, Some("the monitor is wrong")),
        // It asks the cloud, which knows that the instance is gone.
        Intent::Delete if actor == Actor::Cloud && world.machine.powered => return None,
        Intent::Delete => return Some(Wanted::Deleted),
        Intent::PutCopy => {
            let Copy { taint, annotations } = world.copy.clone()?;
            (node.taint, node.annotations) = (taint, annotations);
        }
        Intent::Place(_)
        | Intent::AttestAndPlace(_)
        | Intent::BreakGlassAndPlace
        | Intent::Release
        | Intent::Amend(_)
        | Intent::Add(_)
        | Intent::Rewrite(_)
        | Intent::RewriteBoot
        | Intent::CreateTainted => return None,
    }
    (node != *stored).then_some(Wanted::Stored(node))
}

fn attest(node: &mut Node, method: Method, when: When, now: Seconds, actor: Actor) {
    let at = match when {
        When::Now => NOW,
        When::Later => written(now + LATER),
    };
    node.annotate(METHOD, Some(method.name()));
    node.annotate(FENCED_AT, Some(at));
    node.annotate(FENCED_BY, Some(actor.name()));
}

fn created(world: &World, actor: Actor) -> Node {
    let mut node = Node {
        created: world.now,
        taint: vec![Effect::NoExecute],
        annotations: Vec::new(),
        ready: Ready::Absent,
        ready_since: world.now,
        boot: None,
        reported: None,
    };
    attest(&mut node, Method::PowerOff, When::Now, world.now, actor);
    node
}

/// What the API server makes of a write.
pub enum Answer {
    Stored(Box<World>),
    Denied(String),
}

/// Sends a write. `None`: it does not apply here, or changes nothing.
pub fn send(gate: &Gate, world: &World, actor: Actor, intent: Intent, clocks: Clocks) -> Option<Answer> {
    let after = match wanted(world, intent, actor)? {
        Wanted::Stored(node) => Some(node),
        Wanted::Deleted => None,
    };
    match gate.admit(world, after.clone(), actor, clocks) {
        Admission::Denied(why) => Some(Answer::Denied(why)),
        Admission::Stored { node, broke_glass } => {
            let (before, sent, stored) = (world.node.as_ref(), after.as_ref(), node.as_ref());
            let mut next = world.clone();
            if world.doors && before.is_some() && stored.is_none() {
                if !world.is_out_of_service() {
                    blame(&mut next, actor, broke_glass);
                }
                next.remember_isolation();
            }
            judge(&mut next, &Admitted { before, sent, stored, actor, broke_glass });
            next.node = node;
            (next != *world).then(|| Answer::Stored(Box::new(next)))
        }
    }
}

/// Takes another door than the taint, by hand. `None`: it does not apply here.
pub fn take(gate: &Gate, world: &World, actor: Actor, way: Way) -> Option<Answer> {
    let mut next = world.clone();
    match way {
        Way::ForceDelete if world.pod != Pod::Gone => next.pod = Pod::Gone,
        Way::Detach if world.attachment == Attachment::Attached => next.attachment = Attachment::Detaching,
        Way::Unfinalize if world.attachment == Attachment::Detaching => next.attachment = Attachment::Gone,
        Way::ForceDelete | Way::Detach | Way::Unfinalize => return None,
    }
    match gate.admit_way(world, way, actor) {
        Admission::Denied(why) => Some(Answer::Denied(why)),
        Admission::Stored { broke_glass, .. } => {
            blame(&mut next, actor, broke_glass);
            next.remember_isolation();
            let is_ready = world.node.as_ref().is_some_and(|node| node.ready == Ready::True);
            next.forced_while_ready |= way == Way::ForceDelete && is_ready && world.machine.process;
            Some(Answer::Stored(Box::new(next)))
        }
    }
}

/// Whether a person is to blame for another door that is taken while the machine writes.
fn blame(next: &mut World, actor: Actor, broke_glass: bool) {
    if next.writes_to_disk() && next.excuse.is_none() {
        let may_break = broke_glass && actor.may_break_glass() && next.glass == Some(actor);
        next.excuse = if may_break { Some(Excuse::BrokeGlass) } else { excuse(next) };
    }
}

/// A write that the API server admitted: the Node before it, the Node that was sent, and the one
/// that is stored, with what the gate added.
struct Admitted<'a> {
    before: Option<&'a Node>,
    sent: Option<&'a Node>,
    stored: Option<&'a Node>,
    actor: Actor,
    broke_glass: bool,
}

impl Admitted<'_> {
    fn changes(&self, node: Option<&Node>, key: &str) -> bool {
        annotation(self.before, key) != annotation(node, key)
    }
}

fn annotation(node: Option<&Node>, key: &str) -> Option<&'static str> {
    node.and_then(|node| node.annotation(key))
}

/// What is true about a write that is stored. The gate never sees it.
fn judge(next: &mut World, write: &Admitted<'_>) {
    remember_who_said_it(next, write);
    let Admitted { before, stored, actor, broke_glass, .. } = *write;
    let (was_out, is_out) = (before.is_some_and(Node::is_out_of_service), stored.is_some_and(Node::is_out_of_service));
    let may_break = broke_glass && actor.may_break_glass() && next.glass == Some(actor);
    let places = !was_out && is_out && next.excuse.is_none();
    // It ran under a taint that evicts nothing. Whoever moves its pod now needs a fence of now.
    let evicts = |node: Option<&Node>| node.is_some_and(Node::evicts);
    let begins_to_evict = was_out && evicts(stored) && !evicts(before) && next.excuse == Some(Excuse::AliveWithTaint);
    let moves_the_pod = begins_to_evict && next.pod == Pod::Bound && !next.elsewhere;
    // One that was used is gone.
    next.glass = next.glass.filter(|_| annotation(stored, BREAK_GLASS).is_some());
    if may_break {
        next.excuse = Some(Excuse::BrokeGlass);
    } else if (places || moves_the_pod) && next.writes_to_disk() {
        next.excuse = excuse(next);
    }
    if was_out && !is_out && !may_break && leaves_something_behind(next, before) {
        next.broken = Some(Broken::LeftBehind);
    }
    let rewrites = EVIDENCE.iter().any(|key| write.changes(stored, key));
    if was_out && is_out && !may_break && annotation(before, METHOD).is_some() && rewrites {
        next.broken = Some(Broken::Rewritten);
    }
    let names = [RECORDED_BY, OVERRIDDEN_BY];
    let lies = |key: &&str| write.changes(stored, key) && annotation(stored, key).is_some_and(|it| it != actor.name());
    if names.iter().any(lies) {
        next.broken = Some(Broken::Forged);
    }
}

/// Whose word and whose break-glass is on the Node. What the gate writes out for another source is
/// nobody's word.
fn remember_who_said_it(next: &mut World, write: &Admitted<'_>) {
    if write.sent.is_some() && write.changes(write.sent, BREAK_GLASS) {
        next.glass = annotation(write.sent, BREAK_GLASS).map(|_| write.actor);
    }
    let fenced_at = annotation(write.stored, FENCED_AT);
    if fenced_at.is_none() || EVIDENCE.iter().any(|key| write.changes(write.sent, key)) {
        next.word = fenced_at.map(|at| Word {
            written: next.now,
            claimed: moment(at).unwrap_or(next.now),
            by_node: write.actor.is_on_the_node(),
        });
    }
}

/// Whether a person is to blame for a placement on a machine that writes: somebody who is not on
/// that machine said that it was fenced, less than a day ago, and nothing has been heard of it
/// since, nor for the time of a Lease.
fn excuse(world: &World) -> Option<Excuse> {
    let said = world.word.as_ref().filter(|said| !said.by_node)?;
    let is_silent =
        world.now - world.heard >= GRACE && world.node.as_ref().is_some_and(|node| node.ready != Ready::True);
    let counts_from = said.claimed.min(said.written);
    let is_since_then = world.heard <= counts_from;
    let is_recent = world.now - counts_from <= MAX_AGE;
    (is_silent && is_since_then && is_recent).then_some(Excuse::FalseWord)
}

/// Whether the taint goes too early: the pod hangs in Terminating, or its volume is still attached,
/// or it was never moved away from a node that is not back.
fn leaves_something_behind(world: &World, before: Option<&Node>) -> bool {
    let is_back = before.is_some_and(|node| node.ready == Ready::True);
    let evicted_nothing = before.is_some_and(|node| node.taint == [Effect::NoSchedule]);
    match world.pod {
        Pod::Terminating => true,
        Pod::Gone => world.attachment != Attachment::Gone,
        Pod::Bound => !(is_back && evicted_nothing),
    }
}

/// Somebody reads the Node and keeps the copy.
pub fn read(world: &World) -> Option<World> {
    let node = world.node.as_ref()?;
    let copy = Copy { taint: node.taint.clone(), annotations: node.annotations.clone() };
    (world.copy.is_none()).then(|| World { copy: Some(copy), ..world.clone() })
}
