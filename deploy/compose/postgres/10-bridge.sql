-- The bridge's own role and database, once, when the volume is new. The password never stands in an argument.
\set password `cat /run/secrets/database_password`
CREATE ROLE kwb LOGIN PASSWORD :'password';
CREATE DATABASE kwb OWNER kwb;
REVOKE CONNECT ON DATABASE kwb FROM PUBLIC;
