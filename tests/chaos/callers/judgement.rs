//! What may come of a request, and what may not.

use super::*;

impl Caller {
    /// Liveness: while all is well, a call succeeds.
    pub(super) fn judge(
        &self,
        tag: &Tag,
        start: Instant,
        succeeded: bool,
        status: Option<u16>,
        answer: Option<&Answer>,
    ) {
        // A server with one id for all does not tell its callers apart.
        let is_excused = self.has_bad_token(tag) || self.is_constant();
        let mut state = self.world.state();
        // Nor does a recovery wait for who does not ask for it.
        let is_excused = is_excused || state.account.unpolled.contains(&tag.number);
        let is_excused = is_excused || state.account.misled.contains(&tag.number);
        state.account.counts.succeeded += u64::from(succeeded);
        let Some(number) = tag.lineage else { return };
        let mut upstreams = state.account.upstreams.iter().rev();
        let last = upstreams.find(|it| it.lineage == Some(number));
        let is_excused =
            is_excused || last.is_some_and(|it| it.is_disturbed && it.delivered.is_none());
        let is_excused = is_excused || self.is_elsewhere(&state, tag, number);
        let is_excused = is_excused || self.is_boths(&state, number, |it| !it.is_abandoned);
        let is_known = state.account.lineages[number].is_known
            && !state.account.lineages[number].is_taken
            && (!state.account.lineages[number].is_ending || tag.kind == Kind::Act(Action::Delete));
        let is_well = state.was_well(start);
        if !is_known || !is_well || is_excused {
            return;
        }
        state.account.counts.alive += 1;
        let recovery = answer.and_then(|answer| answer.extensions().get::<Recovery>());
        // It has been recovered, and has expired again before anything was answered. What is only
        // suspected of that is not asked about in a pause.
        let is_paused = recovery.is_none_or(|it| it.outcome() == Outcome::Failed(Failure::Paused));
        if is_paused && state.account.lineages[number].attempts.useless > 0 {
            return;
        }
        state
            .account
            .check(succeeded, "every call succeeds while all is well", || {
                format!(
                    "{:?} {} of session {number}: {status:?}, {recovery:?}",
                    tag.kind, tag.number
                )
            });
    }

    pub(super) fn has_bad_token(&self, tag: &Tag) -> bool {
        let token = tag.headers["authorization"].to_str().unwrap_or_default();
        let version = token
            .rsplit_once(".v")
            .and_then(|(_, version)| version.parse().ok());
        let state = self.world.state();
        !state.is_good(self.principal, version.unwrap_or_default())
    }

    /// Whether what the server has made is gone before its caller had the answer: it has handed out an
    /// id that another was ending.
    pub(super) fn is_ended(&self, lineage: usize) -> bool {
        let state = self.world.state();
        let mut upstreams = state.account.upstreams.iter().rev();
        let made = upstreams.find(|it| it.lineage == Some(lineage));
        let id = made.and_then(|it| it.id.as_ref()?.to_str().ok());
        id.is_some_and(|id| !state.hosts[self.host].sessions.contains_key(id))
    }

    pub(super) fn is_constant(&self) -> bool {
        self.world.state().hosts[self.host].ids == Ids::Constant
    }

    /// Whether the caller's own cookie says that its session is on another replica, which there is:
    /// an answer that was long under way has told it so.
    pub(super) fn is_elsewhere(&self, state: &State, tag: &Tag, lineage: usize) -> bool {
        let host = &state.hosts[self.host];
        let route = cookie(&tag.headers, "route").map(str::to_owned);
        let mut replicas = (0..3).map(|number| host.replica(number));
        let mut sessions = host.sessions.values();
        let current = state.account.lineages[lineage].current;
        let session = sessions.find(|it| Some(it.serial) == current);
        if host.replicated && !self.keeps_cookies() {
            return true;
        }
        host.replicated
            && session.is_some_and(|it| Some(&it.replica) != route.as_ref())
            && replicas.any(|it| Some(it) == route)
    }

    /// Where two callers of one principal were given one id, the record is both's.
    pub(super) fn is_boths(
        &self,
        state: &State,
        lineage: usize,
        counts: impl Fn(&Lineage) -> bool,
    ) -> bool {
        let is_shared = !state.settings.has_principal;
        let id = &state.account.lineages[lineage].callers_id;
        (state.account.lineages.iter().enumerate()).any(|(number, it)| {
            number != lineage
                && it.host == self.host
                && (is_shared || it.principal == self.principal)
                && it.callers_id == *id
                && counts(it)
        })
    }

    /// Whether the layer knows this id, whosever it is.
    pub(super) fn is_on_record(&self, id: &Option<HeaderValue>) -> bool {
        let state = self.world.state();
        let is_shared = !state.settings.has_principal;
        state.account.lineages.iter().any(|it| {
            it.is_known
                && it.host == self.host
                && (is_shared || it.principal == self.principal)
                && it.callers_id == *id
        })
    }

    pub(super) fn is_known(&self, lineage: usize) -> bool {
        self.world.state().account.lineages[lineage].is_known
    }
}
