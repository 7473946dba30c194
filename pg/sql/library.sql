-- Folder mode: the columns of Immich's tables that we read, under Immich's names, so that
-- everything else is the same with and without Immich. Safe to repeat.

CREATE EXTENSION IF NOT EXISTS vector;

DO $$
BEGIN
    IF to_regtype('public.asset_visibility_enum') IS NULL THEN
        CREATE TYPE public.asset_visibility_enum AS ENUM ('archive', 'timeline', 'hidden', 'locked');
    END IF;
END
$$;

CREATE TABLE IF NOT EXISTS public.asset (
    id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    "ownerId"          uuid NOT NULL,
    type               varchar NOT NULL,
    "originalPath"     varchar NOT NULL UNIQUE,
    "originalFileName" varchar NOT NULL,
    "fileCreatedAt"    timestamptz NOT NULL,
    "fileModifiedAt"   timestamptz NOT NULL,
    "localDateTime"    timestamptz NOT NULL,
    "isFavorite"       boolean NOT NULL DEFAULT false,
    thumbhash          bytea,
    "deletedAt"        timestamptz,
    visibility         public.asset_visibility_enum NOT NULL DEFAULT 'timeline'
);

CREATE INDEX IF NOT EXISTS "asset_ownerId_idx" ON public.asset ("ownerId");

CREATE TABLE IF NOT EXISTS public.asset_file (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    "assetId"   uuid NOT NULL REFERENCES public.asset (id) ON UPDATE CASCADE ON DELETE CASCADE,
    type        varchar NOT NULL,
    path        varchar NOT NULL,
    "isEdited"  boolean NOT NULL DEFAULT false,
    UNIQUE ("assetId", type, "isEdited")
);
