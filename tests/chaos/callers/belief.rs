//! What a client believes of its session.

use super::*;

impl Caller {
    /// What a client does about a refusal: some begin anew.
    pub(super) fn consider(
        &self,
        random: &mut Random,
        mine: &Mine,
        status: Option<u16>,
        _: &Answer,
    ) {
        let is_lost = matches!(status, Some(400 | 404));
        let gives_up = is_lost && (!self.is_known(mine.lineage) || random.chance(15));
        let mut memory = self.memory();
        if gives_up
            && memory
                .session
                .as_ref()
                .is_some_and(|it| it.lineage == mine.lineage)
        {
            memory.session = None;
            self.world.state().account.lineages[mine.lineage].is_abandoned = true;
        }
    }

    // What a client believes.

    /// Whether this change may begin: one at a time. Until it is known, nothing is.
    pub(super) fn begins(&self, mine: &Mine, change: &str) -> bool {
        let mut memory = self.memory();
        let Some(it) = memory
            .session
            .as_mut()
            .filter(|it| it.lineage == mine.lineage)
        else {
            return false;
        };
        // One that was not answered may come late, so nothing is known of it any more.
        if !it.changing.insert(change.to_owned()) {
            return false;
        }
        match change {
            "level" => it.level = None,
            uri => drop(it.subscriptions.insert(uri.to_owned(), None)),
        }
        true
    }

    pub(super) fn changed(&self, mine: &Mine, action: Action, change: String, level: &str) {
        let mut memory = self.memory();
        let Some(it) = memory
            .session
            .as_mut()
            .filter(|it| it.lineage == mine.lineage)
        else {
            return;
        };
        it.changing.remove(&change);
        match action {
            Action::SetLevel => it.level = Some(Some(level.to_owned())),
            _ => drop(
                it.subscriptions
                    .insert(change, Some(action == Action::Subscribe)),
            ),
        }
    }

    /// What the server holds is what the client believes.
    pub(super) fn compare(&self, mine: &Mine) {
        let believed = self
            .memory()
            .session
            .clone()
            .filter(|it| it.lineage == mine.lineage);
        let Some(believed) = believed else { return };
        let mut state = self.world.state();
        let state = &mut *state;
        let lineage = &state.account.lineages[mine.lineage];
        let host = &state.hosts[self.host];
        let is_boths = self.is_boths(state, mine.lineage, |_| true);
        let is_told = |current: &usize| state.account.upstreams[*current].delivered.is_some();
        let tells_apart = host.ids != Ids::Constant && !is_boths && !lineage.is_taken;
        // Where any replica answers it, its sessions follow each other too quickly.
        let tells_apart = tells_apart && (self.keeps_cookies() || !host.replicated);
        let Some(current) = lineage
            .current
            .filter(|_| lineage.is_known && tells_apart)
            .filter(is_told)
        else {
            return;
        };
        let session = host.sessions.values().find(|it| it.serial == current);
        let failed = state
            .account
            .upstreams
            .iter()
            .any(|it| it.lineage == Some(mine.lineage) && (it.is_disturbed || it.id.is_none()));
        let Some(session) = session.filter(|_| !failed) else {
            return;
        };
        let mut wrong = Vec::new();
        if let Some(level) = &believed.level {
            if *level != session.level {
                wrong.push(format!("level {:?} is {level:?}", session.level));
            }
        }
        for (uri, is) in &believed.subscriptions {
            if let Some(is) = *is {
                if is != session.subscriptions.contains(uri) {
                    wrong.push(format!("{uri} is thought to be {is}"));
                }
            }
        }
        state.account.counts.state_checked += 1;
        state.account.check(
            wrong.is_empty(),
            "the server holds what the caller believes",
            || {
                format!(
                    "caller {}, session {}: {wrong:?}",
                    self.number, mine.lineage
                )
            },
        );
    }
}
