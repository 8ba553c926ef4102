-- Undoes version 7: what instances say of themselves for `reactor status`, and their protocol.
ALTER TABLE reactor.instances
    DROP COLUMN IF EXISTS version, DROP COLUMN IF EXISTS protocol, DROP COLUMN IF EXISTS protocol_oldest, DROP COLUMN IF EXISTS snapshot;
