-- What row-level security does to the search by words of a large scope: the plan and the time of one query, without and
-- with a policy, in a schema that is dropped at the end. The role that asks is neither owner nor superuser.
--
--     psql -X -f benchmarks/second_wall.sql "$DATABASE_URL"
\set ON_ERROR_STOP on
\pset pager off
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS second_wall CASCADE;
DROP ROLE IF EXISTS second_wall_app;
CREATE ROLE second_wall_app;
CREATE SCHEMA second_wall;
GRANT USAGE ON SCHEMA second_wall TO second_wall_app;
SET search_path = second_wall;
CREATE TABLE message (id bigserial PRIMARY KEY, instance_id int, content text, lexemes tsvector);
-- One scope of 100,000 messages, and 100 of 1,000. As in conversations/lexemes.py, each text holds a mark of its scope.
INSERT INTO message (instance_id, content, lexemes)
SELECT scope, repeat('word ', 30), (('''#' || scope || ''' ') || words)::tsvector
FROM (
    SELECT CASE WHEN n <= 100000 THEN 0 ELSE 1 + n % 100 END AS scope,
           (SELECT string_agg('w' || (abs(hashint8(n * 40 + k)) % 20000), ' ') FROM generate_series(1, 30) k) AS words
    FROM generate_series(1, 200000) n
) made;
CREATE INDEX ON message (instance_id);
CREATE INDEX ON message USING gin (lexemes) WITH (fastupdate = off);
GRANT SELECT ON message TO second_wall_app;
ANALYZE message;
CREATE FUNCTION ask(scope int) RETURNS TABLE (plan text) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format('EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, COSTS OFF) SELECT id FROM second_wall.message '
        'WHERE instance_id = %s AND lexemes @@ ''(w17 | w4711) & ''''#%s''''''::tsquery ORDER BY id DESC LIMIT 200', scope, scope);
END $$;
GRANT EXECUTE ON FUNCTION ask TO second_wall_app;

SET ROLE second_wall_app;
\echo '--- 100,000 messages, without a policy (the second run counts)'
SELECT count(*) AS first_run FROM ask(0);
SELECT * FROM ask(0);
\echo '--- 1,000 messages, without a policy'
SELECT count(*) AS first_run FROM ask(7);
SELECT * FROM ask(7);

RESET ROLE;
ALTER TABLE message ENABLE ROW LEVEL SECURITY;
ALTER TABLE message FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON message USING (instance_id = nullif(current_setting('reservoir.instance', true), '')::int);
SET ROLE second_wall_app;
SET reservoir.instance = '0';
\echo '--- 100,000 messages, with the policy'
SELECT count(*) AS first_run FROM ask(0);
SELECT * FROM ask(0);
SET reservoir.instance = '7';
\echo '--- 1,000 messages, with the policy'
SELECT count(*) AS first_run FROM ask(7);
SELECT * FROM ask(7);

RESET ROLE;
DROP SCHEMA second_wall CASCADE;
DROP ROLE second_wall_app;
