-- A label store as schema 2 wrote it: one of two people, a dispute, a withdrawal, a renaming, an evicted picture.
BEGIN TRANSACTION;
CREATE TABLE frames (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL, stamp_ns INTEGER NOT NULL, frame_id TEXT NOT NULL,
    label TEXT NOT NULL,            -- that counts; empty: nobody says, or people disagree
    disputed INTEGER NOT NULL DEFAULT 0,
    predicted TEXT NOT NULL, confidence REAL NOT NULL DEFAULT 0,
    model_version INTEGER NOT NULL,
    scenario INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL,          -- bytes of the image, 0 when evicted
    received_ns INTEGER NOT NULL,
    learned_by INTEGER,             -- first version that has learned it
    format TEXT NOT NULL,
    image BLOB,                     -- NULL: evicted; last, so that no query has to pass it
    UNIQUE (source, stamp_ns, frame_id)
);
INSERT INTO "frames" VALUES(1,'camera',1,'eye','duck',0,'mug',0.5,3,1,0,10,4,'jpeg',NULL);
INSERT INTO "frames" VALUES(2,'camera',2,'eye','duck',0,'mug',0.5,3,1,9,11,4,'jpeg',X'706963747572652032');
INSERT INTO "frames" VALUES(3,'camera',3,'eye','',1,'mug',0.5,3,2,9,12,NULL,'jpeg',X'706963747572652033');
INSERT INTO "frames" VALUES(5,'camera',4,'eye','tray',0,'mug',0.5,3,2,9,14,NULL,'jpeg',X'706963747572652034');
INSERT INTO "frames" VALUES(6,'camera',5,'eye','',0,'mug',0.5,3,2,9,15,NULL,'jpeg',X'706963747572652035');
INSERT INTO "frames" VALUES(8,'camera',6,'eye','cup',0,'mug',0.5,3,3,9,17,NULL,'jpeg',X'706963747572652036');
CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    frame INTEGER, label TEXT NOT NULL, author TEXT NOT NULL,
    renamed_from TEXT,              -- a renaming when not NULL; then there is no frame
    batch INTEGER
);
INSERT INTO "items" VALUES(1,1,'duck','ann',NULL,1);
INSERT INTO "items" VALUES(2,2,'bird','ann',NULL,1);
INSERT INTO "items" VALUES(3,3,'mug','ann',NULL,3);
INSERT INTO "items" VALUES(4,3,'','bob',NULL,3);
INSERT INTO "items" VALUES(5,5,'tray','bob',NULL,NULL);
INSERT INTO "items" VALUES(6,NULL,'duck','','bird',2);
INSERT INTO "items" VALUES(7,6,'mug','bob',NULL,NULL);
INSERT INTO "items" VALUES(8,6,'','bob',NULL,NULL);
INSERT INTO "items" VALUES(9,8,'cup','ann',NULL,NULL);
CREATE TABLE votes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    frame INTEGER NOT NULL REFERENCES frames (id),
    author TEXT NOT NULL, label TEXT NOT NULL, received_ns INTEGER NOT NULL
);
INSERT INTO "votes" VALUES(1,1,'ann','duck',10);
INSERT INTO "votes" VALUES(2,2,'ann','duck',11);
INSERT INTO "votes" VALUES(3,3,'ann','mug',12);
INSERT INTO "votes" VALUES(4,3,'bob','tray',13);
INSERT INTO "votes" VALUES(5,5,'bob','tray',14);
INSERT INTO "votes" VALUES(6,6,'bob','mug',15);
INSERT INTO "votes" VALUES(7,6,'bob','',16);
INSERT INTO "votes" VALUES(8,8,'ann','cup',17);
CREATE INDEX frames_by_label ON frames (label, size, learned_by);
CREATE INDEX frames_disputed ON frames (id) WHERE disputed;
CREATE INDEX votes_by_frame ON votes (frame);
CREATE INDEX items_by_batch ON items (batch);
CREATE INDEX items_by_frame ON items (frame);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('frames',8);
INSERT INTO "sqlite_sequence" VALUES('votes',8);
INSERT INTO "sqlite_sequence" VALUES('items',9);
COMMIT;
PRAGMA user_version = 2;
