-- Immich 3.1's database, as far as we touch it: our own DDL, after the listing of a running
-- server. Left out: what none of our code and no foreign key of these tables reaches (sessions,
-- shared links, memories, libraries …), and the audit tables except the one of asset_ocr.

CREATE EXTENSION IF NOT EXISTS vector;
CREATE EXTENSION IF NOT EXISTS cube;
CREATE EXTENSION IF NOT EXISTS earthdistance;
CREATE EXTENSION IF NOT EXISTS "uuid-ossp";
CREATE EXTENSION IF NOT EXISTS unaccent;
CREATE EXTENSION IF NOT EXISTS pg_trgm;

CREATE TYPE album_user_role_enum AS ENUM ('owner', 'editor', 'viewer');
CREATE TYPE asset_checksum_algorithm_enum AS ENUM ('sha1', 'sha1-path');
CREATE TYPE asset_visibility_enum AS ENUM ('archive', 'timeline', 'hidden', 'locked');
CREATE TYPE assets_status_enum AS ENUM ('active', 'trashed', 'deleted');
CREATE TYPE sourcetype AS ENUM ('machine-learning', 'exif', 'manual');

-- Time-ordered ids (RFC 9562, version 7): 48 bits of milliseconds, then random bits.
CREATE FUNCTION immich_uuid_v7(at timestamptz DEFAULT clock_timestamp()) RETURNS uuid
LANGUAGE sql VOLATILE
AS $$
    SELECT encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                PLACING substring(int8send((extract(epoch FROM at) * 1000)::bigint) FROM 3)
                FROM 1 FOR 6),
            52, 1), 53, 1),
        'hex')::uuid
$$;

CREATE FUNCTION f_unaccent(text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN unaccent('unaccent', $1);

CREATE FUNCTION updated_at() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW."updatedAt" := clock_timestamp();
    NEW."updateId" := immich_uuid_v7(NEW."updatedAt");
    RETURN NEW;
END
$$;

CREATE TABLE "user" (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    email varchar NOT NULL CONSTRAINT user_email_uq UNIQUE,
    password varchar NOT NULL DEFAULT '',
    "createdAt" timestamptz NOT NULL DEFAULT now(),
    "profileImagePath" varchar NOT NULL DEFAULT '',
    "isAdmin" boolean NOT NULL DEFAULT false,
    "shouldChangePassword" boolean NOT NULL DEFAULT true,
    "deletedAt" timestamptz,
    "oauthId" varchar NOT NULL DEFAULT '',
    "updatedAt" timestamptz NOT NULL DEFAULT now(),
    "storageLabel" varchar CONSTRAINT "user_storageLabel_uq" UNIQUE,
    name varchar NOT NULL DEFAULT '',
    "quotaSizeInBytes" bigint,
    "quotaUsageInBytes" bigint NOT NULL DEFAULT 0,
    status varchar NOT NULL DEFAULT 'active',
    "profileChangedAt" timestamptz NOT NULL DEFAULT now(),
    "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
    "avatarColor" varchar,
    "pinCode" varchar
);

CREATE TABLE asset (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    "ownerId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE,
    type varchar NOT NULL,
    "originalPath" varchar NOT NULL,
    "fileCreatedAt" timestamptz NOT NULL,
    "fileModifiedAt" timestamptz NOT NULL,
    "isFavorite" boolean NOT NULL DEFAULT false,
    duration integer,
    checksum bytea NOT NULL,
    "livePhotoVideoId" uuid REFERENCES asset ON UPDATE CASCADE ON DELETE SET NULL,
    "updatedAt" timestamptz NOT NULL DEFAULT now(),
    "createdAt" timestamptz NOT NULL DEFAULT now(),
    "originalFileName" varchar NOT NULL,
    thumbhash bytea,
    "isOffline" boolean NOT NULL DEFAULT false,
    "libraryId" uuid,
    "isExternal" boolean NOT NULL DEFAULT false,
    "deletedAt" timestamptz,
    "localDateTime" timestamptz NOT NULL,
    "stackId" uuid,
    "duplicateId" uuid,
    status assets_status_enum NOT NULL DEFAULT 'active',
    "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
    visibility asset_visibility_enum NOT NULL DEFAULT 'timeline',
    width integer,
    height integer,
    "isEdited" boolean NOT NULL DEFAULT false,
    "checksumAlgorithm" asset_checksum_algorithm_enum NOT NULL
);
CREATE UNIQUE INDEX "UQ_assets_owner_checksum" ON asset ("ownerId", checksum)
    WHERE "libraryId" IS NULL;
CREATE INDEX "asset_ownerId_idx" ON asset ("ownerId");
CREATE INDEX "asset_fileCreatedAt_idx" ON asset ("fileCreatedAt");
CREATE INDEX "asset_updateId_idx" ON asset ("updateId");
CREATE INDEX "asset_id_timeline_notDeleted_idx" ON asset (id)
    WHERE visibility = 'timeline' AND "deletedAt" IS NULL;
CREATE INDEX "asset_originalFilename_trigram_idx" ON asset
    USING gin (f_unaccent("originalFileName") gin_trgm_ops);
CREATE TRIGGER "asset_updatedAt" BEFORE UPDATE ON asset
    FOR EACH ROW EXECUTE FUNCTION updated_at();

CREATE TABLE stack (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    "primaryAssetId" uuid NOT NULL UNIQUE REFERENCES asset,
    "ownerId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE,
    "createdAt" timestamptz NOT NULL DEFAULT now(),
    "updatedAt" timestamptz NOT NULL DEFAULT now(),
    "updateId" uuid NOT NULL DEFAULT immich_uuid_v7()
);
ALTER TABLE asset ADD CONSTRAINT "asset_stackId_fkey"
    FOREIGN KEY ("stackId") REFERENCES stack ON UPDATE CASCADE ON DELETE SET NULL;
CREATE INDEX "asset_stackId_idx" ON asset ("stackId");

CREATE TABLE asset_file (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    "assetId" uuid NOT NULL REFERENCES asset ON UPDATE CASCADE ON DELETE CASCADE,
    "createdAt" timestamptz NOT NULL DEFAULT now(),
    "updatedAt" timestamptz NOT NULL DEFAULT now(),
    type varchar NOT NULL,
    path varchar NOT NULL,
    "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
    "isEdited" boolean NOT NULL DEFAULT false,
    "isProgressive" boolean NOT NULL DEFAULT false,
    "isTransparent" boolean NOT NULL DEFAULT false,
    CONSTRAINT "asset_file_assetId_type_isEdited_uq" UNIQUE ("assetId", type, "isEdited")
);
CREATE INDEX "asset_file_assetId_idx" ON asset_file ("assetId");
CREATE INDEX "asset_file_updateId_idx" ON asset_file ("updateId");
CREATE TRIGGER "asset_file_updatedAt" BEFORE UPDATE ON asset_file
    FOR EACH ROW EXECUTE FUNCTION updated_at();

CREATE TABLE asset_exif (
    "assetId" uuid PRIMARY KEY REFERENCES asset ON DELETE CASCADE,
    make varchar,
    model varchar,
    "exifImageWidth" integer,
    "exifImageHeight" integer,
    "fileSizeInByte" bigint,
    orientation varchar,
    "dateTimeOriginal" timestamptz,
    "modifyDate" timestamptz,
    "lensModel" varchar,
    "fNumber" double precision,
    "focalLength" double precision,
    iso integer,
    latitude double precision,
    longitude double precision,
    city varchar,
    state varchar,
    country varchar,
    description text NOT NULL DEFAULT '',
    fps double precision,
    "exposureTime" varchar,
    "livePhotoCID" varchar,
    "timeZone" varchar,
    "projectionType" varchar,
    "profileDescription" varchar,
    colorspace varchar,
    "bitsPerSample" integer,
    "autoStackId" varchar,
    rating integer,
    "updatedAt" timestamptz NOT NULL DEFAULT clock_timestamp(),
    "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
    "lockedProperties" varchar[],
    tags varchar[]
);
CREATE INDEX asset_exif_city_idx ON asset_exif (city);
CREATE TRIGGER "asset_exif_updatedAt" BEFORE UPDATE ON asset_exif
    FOR EACH ROW EXECUTE FUNCTION updated_at();

CREATE TABLE asset_job_status (
    "assetId" uuid PRIMARY KEY REFERENCES asset ON UPDATE CASCADE ON DELETE CASCADE,
    "facesRecognizedAt" timestamptz,
    "metadataExtractedAt" timestamptz,
    "duplicatesDetectedAt" timestamptz,
    "ocrAt" timestamptz
);

CREATE TABLE smart_search (
    "assetId" uuid PRIMARY KEY REFERENCES asset ON DELETE CASCADE,
    embedding vector(512) NOT NULL
);
CREATE INDEX clip_index ON smart_search USING hnsw (embedding vector_cosine_ops)
    WITH (ef_construction = 300, m = 16);

CREATE TABLE asset_ocr (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    "assetId" uuid NOT NULL REFERENCES asset ON UPDATE CASCADE ON DELETE CASCADE,
    x1 real NOT NULL,
    y1 real NOT NULL,
    x2 real NOT NULL,
    y2 real NOT NULL,
    x3 real NOT NULL,
    y3 real NOT NULL,
    x4 real NOT NULL,
    y4 real NOT NULL,
    "boxScore" real NOT NULL,
    "textScore" real NOT NULL,
    text text NOT NULL,
    "isVisible" boolean NOT NULL DEFAULT true,
    "updateId" uuid NOT NULL DEFAULT immich_uuid_v7()
);
CREATE INDEX "asset_ocr_assetId_idx" ON asset_ocr ("assetId");

CREATE TABLE asset_ocr_audit (
    id uuid PRIMARY KEY DEFAULT immich_uuid_v7(),
    "assetId" uuid NOT NULL,
    "deletedAt" timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE FUNCTION asset_ocr_delete_audit() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO asset_ocr_audit ("assetId") SELECT "assetId" FROM old;
    RETURN NULL;
END
$$;
CREATE TRIGGER asset_ocr_delete_audit AFTER DELETE ON asset_ocr REFERENCING OLD TABLE AS old
    FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION asset_ocr_delete_audit();

CREATE TABLE ocr_search (
    "assetId" uuid PRIMARY KEY REFERENCES asset ON UPDATE CASCADE ON DELETE CASCADE,
    text text NOT NULL
);
CREATE INDEX idx_ocr_search_text ON ocr_search USING gin (f_unaccent(text) gin_trgm_ops);

CREATE TABLE asset_edit (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    "assetId" uuid NOT NULL REFERENCES asset ON UPDATE CASCADE ON DELETE CASCADE,
    action varchar NOT NULL,
    parameters jsonb NOT NULL,
    sequence integer NOT NULL,
    "updatedAt" timestamptz NOT NULL DEFAULT now(),
    "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
    CONSTRAINT "asset_edit_assetId_sequence_uq" UNIQUE ("assetId", sequence)
);
CREATE FUNCTION asset_edit_insert() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE asset SET "isEdited" = true
    WHERE NOT "isEdited" AND id IN (SELECT "assetId" FROM inserted_edit);
    RETURN NULL;
END
$$;
CREATE TRIGGER asset_edit_insert AFTER INSERT ON asset_edit
    REFERENCING NEW TABLE AS inserted_edit
    FOR EACH STATEMENT EXECUTE FUNCTION asset_edit_insert();
CREATE FUNCTION asset_edit_delete() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE asset SET "isEdited" = false
    WHERE "isEdited" AND id IN (SELECT "assetId" FROM deleted_edit)
        AND NOT EXISTS (SELECT FROM asset_edit e WHERE e."assetId" = asset.id);
    RETURN NULL;
END
$$;
CREATE TRIGGER asset_edit_delete AFTER DELETE ON asset_edit
    REFERENCING OLD TABLE AS deleted_edit
    FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION asset_edit_delete();
CREATE TRIGGER "asset_edit_updatedAt" BEFORE UPDATE ON asset_edit
    FOR EACH ROW EXECUTE FUNCTION updated_at();

CREATE TABLE person (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    "createdAt" timestamptz NOT NULL DEFAULT now(),
    "updatedAt" timestamptz NOT NULL DEFAULT now(),
    "ownerId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE,
    name varchar NOT NULL DEFAULT '',
    "thumbnailPath" varchar NOT NULL DEFAULT '',
    "isHidden" boolean NOT NULL DEFAULT false,
    "birthDate" date,
    "faceAssetId" uuid,
    "isFavorite" boolean NOT NULL DEFAULT false,
    color varchar,
    "updateId" uuid NOT NULL DEFAULT immich_uuid_v7()
);
CREATE TABLE asset_face (
    "assetId" uuid NOT NULL REFERENCES asset ON UPDATE CASCADE ON DELETE CASCADE,
    "personId" uuid REFERENCES person ON UPDATE CASCADE ON DELETE SET NULL,
    "imageWidth" integer NOT NULL DEFAULT 0,
    "imageHeight" integer NOT NULL DEFAULT 0,
    "boundingBoxX1" integer NOT NULL DEFAULT 0,
    "boundingBoxY1" integer NOT NULL DEFAULT 0,
    "boundingBoxX2" integer NOT NULL DEFAULT 0,
    "boundingBoxY2" integer NOT NULL DEFAULT 0,
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    "sourceType" sourcetype NOT NULL DEFAULT 'machine-learning',
    "deletedAt" timestamptz,
    "updatedAt" timestamptz NOT NULL DEFAULT now(),
    "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
    "isVisible" boolean NOT NULL DEFAULT true
);
CREATE INDEX "asset_face_assetId_personId_idx" ON asset_face ("assetId", "personId");
CREATE INDEX "asset_face_personId_assetId_idx" ON asset_face ("personId", "assetId");
ALTER TABLE person ADD FOREIGN KEY ("faceAssetId") REFERENCES asset_face ON DELETE SET NULL;
CREATE TABLE face_search (
    "faceId" uuid PRIMARY KEY REFERENCES asset_face ON DELETE CASCADE,
    embedding vector(512) NOT NULL
);
CREATE INDEX face_index ON face_search USING hnsw (embedding vector_cosine_ops)
    WITH (ef_construction = 300, m = 16);

CREATE TABLE partner (
    "sharedById" uuid NOT NULL REFERENCES "user" ON DELETE CASCADE,
    "sharedWithId" uuid NOT NULL REFERENCES "user" ON DELETE CASCADE,
    "createdAt" timestamptz NOT NULL DEFAULT now(),
    "updatedAt" timestamptz NOT NULL DEFAULT now(),
    "inTimeline" boolean NOT NULL DEFAULT false,
    "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
    "createId" uuid NOT NULL DEFAULT immich_uuid_v7(),
    PRIMARY KEY ("sharedById", "sharedWithId")
);
CREATE TRIGGER "partner_updatedAt" BEFORE UPDATE ON partner
    FOR EACH ROW EXECUTE FUNCTION updated_at();

CREATE TABLE album (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    "albumName" varchar NOT NULL DEFAULT 'Untitled Album',
    "createdAt" timestamptz NOT NULL DEFAULT now(),
    "albumThumbnailAssetId" uuid REFERENCES asset ON UPDATE CASCADE ON DELETE SET NULL,
    "updatedAt" timestamptz NOT NULL DEFAULT now(),
    description text NOT NULL DEFAULT '',
    "deletedAt" timestamptz,
    "isActivityEnabled" boolean NOT NULL DEFAULT true,
    "order" varchar NOT NULL DEFAULT 'desc',
    "updateId" uuid NOT NULL DEFAULT immich_uuid_v7()
);
CREATE TABLE album_asset (
    "albumId" uuid NOT NULL REFERENCES album ON UPDATE CASCADE ON DELETE CASCADE,
    "assetId" uuid NOT NULL REFERENCES asset ON UPDATE CASCADE ON DELETE CASCADE,
    "createdAt" timestamptz NOT NULL DEFAULT now(),
    "updatedAt" timestamptz NOT NULL DEFAULT now(),
    "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
    PRIMARY KEY ("albumId", "assetId")
);
CREATE INDEX "album_asset_assetId_idx" ON album_asset ("assetId");
CREATE TABLE album_user (
    "albumId" uuid NOT NULL REFERENCES album ON UPDATE CASCADE ON DELETE CASCADE,
    "userId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE,
    role album_user_role_enum NOT NULL DEFAULT 'editor',
    "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
    "updatedAt" timestamptz NOT NULL DEFAULT now(),
    "createId" uuid NOT NULL DEFAULT immich_uuid_v7(),
    "createdAt" timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY ("albumId", "userId")
);
CREATE UNIQUE INDEX album_user_unique_owner ON album_user ("albumId") WHERE role = 'owner';

CREATE TABLE tag (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    "userId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE,
    value varchar NOT NULL,
    "createdAt" timestamptz NOT NULL DEFAULT now(),
    "updatedAt" timestamptz NOT NULL DEFAULT now(),
    color varchar,
    "parentId" uuid REFERENCES tag ON DELETE CASCADE,
    "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
    CONSTRAINT "tag_userId_value_uq" UNIQUE ("userId", value)
);
CREATE TRIGGER "tag_updatedAt" BEFORE UPDATE ON tag
    FOR EACH ROW EXECUTE FUNCTION updated_at();
CREATE TABLE tag_asset (
    "assetId" uuid NOT NULL REFERENCES asset ON UPDATE CASCADE ON DELETE CASCADE,
    "tagId" uuid NOT NULL REFERENCES tag ON UPDATE CASCADE ON DELETE CASCADE,
    PRIMARY KEY ("assetId", "tagId")
);
CREATE INDEX "tag_asset_tagId_idx" ON tag_asset ("tagId");
CREATE TABLE tag_closure (
    id_ancestor uuid NOT NULL REFERENCES tag ON DELETE CASCADE,
    id_descendant uuid NOT NULL REFERENCES tag ON DELETE CASCADE,
    PRIMARY KEY (id_ancestor, id_descendant)
);

CREATE TABLE system_metadata (
    key varchar PRIMARY KEY,
    value jsonb NOT NULL
);
