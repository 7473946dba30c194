-- Immich 2.3 as differences from 3.1, run after schema.sql: no edits yet (they came with 2.5), one
-- preview per asset, a duration as text, owners of albums in the album, files of their own columns.

DROP TABLE asset_edit;
DROP FUNCTION asset_edit_insert, asset_edit_delete;

ALTER TABLE asset
    DROP COLUMN "isEdited",
    DROP COLUMN "checksumAlgorithm",
    DROP COLUMN width,
    DROP COLUMN height,
    ADD COLUMN "deviceAssetId" varchar NOT NULL,
    ADD COLUMN "deviceId" varchar NOT NULL,
    ADD COLUMN "encodedVideoPath" varchar DEFAULT '',
    ADD COLUMN "sidecarPath" varchar,
    ALTER COLUMN duration TYPE varchar;
DROP TYPE asset_checksum_algorithm_enum;

ALTER TABLE asset_file
    DROP COLUMN "isEdited",
    DROP COLUMN "isProgressive",
    DROP COLUMN "isTransparent",
    ADD CONSTRAINT "asset_file_assetId_type_uq" UNIQUE ("assetId", type);

ALTER TABLE asset_exif
    DROP COLUMN "lockedProperties",
    DROP COLUMN tags;

ALTER TABLE asset_job_status
    ADD COLUMN "previewAt" timestamptz,
    ADD COLUMN "thumbnailAt" timestamptz;

DROP TRIGGER asset_ocr_delete_audit ON asset_ocr;
DROP FUNCTION asset_ocr_delete_audit;
DROP TABLE asset_ocr_audit;
ALTER TABLE asset_ocr
    DROP COLUMN "isVisible",
    DROP COLUMN "updateId";

ALTER TABLE asset_face DROP COLUMN "isVisible";

ALTER TABLE album
    ADD COLUMN "ownerId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE;
DROP INDEX album_user_unique_owner;
ALTER TABLE album_user ALTER COLUMN role DROP DEFAULT, ALTER COLUMN role TYPE varchar;
ALTER TABLE album_user ALTER COLUMN role SET DEFAULT 'editor';
DROP TYPE album_user_role_enum;
